"""Pictures of a pretrained model at work: original, masked, reconstruction side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mae.methods.masked import MaskedMethod
from mae.methods.masked_image_modeling import MaskedImageModeling
from mae.methods.method import Method
from mae.models.masking import Mask, TargetBlocks
from mae.models.patches import patchify, unpatchify

GREY = 0.5


@dataclass(frozen=True)
class Pictures:
    """Panels (N, K, C, H, W) float32 in [0, 1] and the K names of their columns."""

    columns: tuple[str, ...]
    panels: Tensor


@torch.no_grad()
def pictures(
    method: Method,
    images: Tensor,
    noise: Tensor | None,
    mean: Sequence[float],
    std: Sequence[float],
) -> Pictures:
    """Draw the original, masked (grey) and the method's other columns; `Method.picture_note` is the caption.

    images (N, C, H, W) as the model takes them, normalised by `mean` and `std` per channel; noise (N, ...)
    fixes the masks. Other columns: "targets", where the mask has target blocks; "reconstruction", where the
    target can be drawn: visible patches are the original pixels, pasted, and only masked ones are
    predictions; "own latents", where the method has `autoencode`. Runs in eval mode, restores the mode.
    """
    embedding = method.encoder.patch_embed
    patches = patchify(images, embedding.patch_size).float()
    channels = [images.new_tensor(list(values), dtype=torch.float32) for values in (mean, std)]
    centre, scale = (values.repeat(patches.shape[-1] // len(values)) for values in channels)
    original = patches * scale + centre
    drawn = {"original": original}
    if isinstance(method, MaskedMethod):
        mask, predicted = _in_eval_mode(method, images, noise, patches)
        drawn["masked"] = original.masked_fill(mask.masked[..., None], GREY)
        if isinstance(mask, TargetBlocks):
            drawn["targets"] = original.masked_fill(~mask.targets[..., None], GREY)
        if "reconstruction" in predicted:
            whole = predicted["reconstruction"] * scale + centre
            drawn["reconstruction"] = torch.where(mask.masked[..., None], whole, original)
        if "own latents" in predicted:
            drawn["own latents"] = predicted["own latents"] * scale + centre
    shown = [unpatchify(panel, embedding.patch_size, embedding.grid_size) for panel in drawn.values()]
    return Pictures(tuple(drawn), torch.stack(shown, dim=1).clamp(0, 1))


def _in_eval_mode(
    method: MaskedMethod, images: Tensor, noise: Tensor | None, patches: Tensor
) -> tuple[Mask, dict[str, Tensor]]:
    """Sample the mask and predict what can be drawn: normalised pixels (N, L, P*P*C) by column."""
    training = method.training
    method.train(False)
    try:
        if not isinstance(method, MaskedImageModeling):
            return method.sample_mask(images, noise), {}
        predicted, mask = method.reconstruct(images, noise)
        values = {"reconstruction": predicted, "own latents": method.autoencode(images)}
        pixels = {
            column: method.target.as_pixels(value.float(), patches)
            for column, value in values.items()
            if value is not None
        }
        return mask, {column: value for column, value in pixels.items() if value is not None}
    finally:
        method.train(training)
