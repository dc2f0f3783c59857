"""What a pretrained model fills in, as pictures: original, masked, reconstruction side by side."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mae.methods.masked import MaskedMethod
from mae.methods.method import Method
from mae.models.masking import Mask
from mae.models.patches import patchify, unpatchify

GREY = 0.5
COLUMNS = ("original", "masked", "reconstruction", "own latents")


def note(method: Method) -> str:
    """What a caption of `pictures` must say."""
    if not isinstance(method, MaskedMethod):
        return "this method hides nothing and predicts no pixels"
    caption = f"visible patches are pasted in; {method.target.note}"
    if type(method).autoencode is MaskedMethod.autoencode:
        return caption
    return f"{caption}. Own latents: all patches, decoded from the latents that the encoder itself gives them"


@torch.no_grad()
def pictures(
    method: Method,
    images: Tensor,
    noise: Tensor | None,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """(N, K, C, H, W) float32 in [0, 1], the first K of COLUMNS: original, masked (grey), reconstruction ...

    images (N, C, H, W) as the model takes them, normalised by `mean` and `std` per channel; noise (N, ...)
    fixes the masks. In the reconstruction visible patches are the original pixels, pasted, and only masked
    ones are predictions; `note` says what those borrow of the original. The last is `autoencode`, where the
    method has that. A target that cannot be drawn has no reconstruction, a method that hides nothing has the
    original alone. Runs in eval mode, puts the mode back.
    """
    embedding = method.encoder.patch_embed
    original = patchify(images, embedding.patch_size).float()
    channels = [images.new_tensor(list(values), dtype=torch.float32) for values in (mean, std)]
    centre, scale = (values.repeat(original.shape[-1] // len(values)) for values in channels)
    panels = [original * scale + centre]
    if isinstance(method, MaskedMethod):
        predicted, mask, own = _in_eval_mode(method, images, noise)
        hidden = mask.masked[..., None]
        panels.append(panels[0].masked_fill(hidden, GREY))
        drawn = method.target.as_pixels(predicted.float(), original)
        if drawn is not None:
            panels.append(torch.where(hidden, drawn * scale + centre, panels[0]))
        whole = None if own is None else method.target.as_pixels(own.float(), original)
        if whole is not None:
            panels.append(whole * scale + centre)
    shown = [unpatchify(panel, embedding.patch_size, embedding.grid_size) for panel in panels]
    return torch.stack(shown, dim=1).clamp(0, 1)


def _in_eval_mode(
    method: MaskedMethod, images: Tensor, noise: Tensor | None
) -> tuple[Tensor, Mask, Tensor | None]:
    training = method.training
    method.train(False)
    try:
        return *method.reconstruct(images, noise), method.autoencode(images)
    finally:
        method.train(training)
