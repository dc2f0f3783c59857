"""What a pretrained model fills in, as pictures: original, masked, reconstruction side by side."""

from collections.abc import Sequence
from typing import Protocol

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae.models.masking import Mask
from mae.models.patches import patchify, unpatchify
from mae.models.targets import unnormalise

GREY = 0.5


class Reconstructs(Protocol):
    """A method that predicts pixels: see `methods.mae.MAE.reconstruct`."""

    encoder: VisionTransformer
    norm_pix: bool
    training: bool

    def reconstruct(self, images: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Mask]: ...
    def train(self, mode: bool = True) -> object: ...


@torch.no_grad()
def pictures(
    method: Reconstructs,
    images: Tensor,
    noise: Tensor | None,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """(N, 3, C, H, W) float32 in [0, 1]: the original, the masked image (grey) and the reconstruction.

    images (N, C, H, W) as the model takes them, normalised by `mean` and `std` per channel; noise (N, L)
    fixes the masks. In the reconstruction visible patches are the original pixels, pasted, and only masked
    ones are predictions. Where the model predicts normalised pixels, each patch's mean and contrast come from
    the original (`targets.unnormalise`): a caption should say so. Runs in eval mode, puts the mode back.
    """
    training = method.training
    method.train(False)
    try:
        predicted, mask = method.reconstruct(images, noise)
    finally:
        method.train(training)
    embedding = method.encoder.patch_embed
    original = patchify(images, embedding.patch_size).float()
    predicted = predicted.float()
    if method.norm_pix:
        predicted = unnormalise(predicted, original)
    channels = [images.new_tensor(list(values), dtype=torch.float32) for values in (mean, std)]
    centre, scale = (values.repeat(original.shape[-1] // len(values)) for values in channels)
    original, predicted = original * scale + centre, predicted * scale + centre
    hidden = mask.masked[..., None]
    panels = [original, original.masked_fill(hidden, GREY), torch.where(hidden, predicted, original)]
    rows = [unpatchify(panel, embedding.patch_size, embedding.grid_size) for panel in panels]
    return torch.stack(rows, dim=1).clamp(0, 1)
