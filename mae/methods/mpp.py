"""Masked patch prediction, as in the ViT paper (Dosovitskiy et al., arXiv 2010.11929, B.1.2)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae.methods.corrupted import CorruptedMethod
from mae.models.masking import Mask, noise_for
from mae.models.patches import patchify, take, unpatchify
from mae.models.vit import encode


@dataclass(frozen=True)
class Corruption(Mask):
    """A mask whose patches enter unchanged or swapped (N, L) bool, else as the mask token.

    others (N, L): the patch that replaces a swapped one.
    """

    unchanged: Tensor
    swapped: Tensor
    others: Tensor


class MPP(CorruptedMethod):
    """Half of the patches are predicted: 80 % of them enter as a mask token, 10 % (`swap`) as another patch
    of the image, 10 % (`keep`) unchanged: the shares of BERT.

    The paper's targets are mean_colour (which it reports), mosaic, and pixels. noise: the mask's own, then
    two numbers for each patch: the first decides how it enters, the second names the other patch.
    """

    paper_mask = ("random", 0.5)
    paper_target = "mean_colour"

    def __init__(
        self, encoder: VisionTransformer, *, swap: float = 0.1, keep: float = 0.1, **masked: Any
    ) -> None:
        super().__init__(encoder, **masked)
        if swap + keep > 1:
            raise ValueError(
                f"swap {swap} and keep {keep} are shares of the masked patches: at most 1 together"
            )
        self.swap, self.keep = swap, keep
        self.noise_shape = (math.prod(self.masking.noise_shape) + 2 * encoder.patch_embed.num_patches,)

    def sample_mask(self, images: Tensor, noise: Tensor | None = None) -> Corruption:
        noise = noise_for(images, self.noise_shape, noise)
        length = self.encoder.patch_embed.num_patches
        mask_noise, fate, other = noise.split([noise.shape[1] - 2 * length, length, length], dim=1)
        mask = self.masking(mask_noise.unflatten(1, self.masking.noise_shape))
        unchanged = fate >= 1 - self.keep
        swapped = (fate >= 1 - self.keep - self.swap) & ~unchanged
        return Corruption(
            mask.masked,
            mask.visible_ids,
            mask.masked_ids,
            unchanged & mask.masked,
            swapped & mask.masked,
            (other * length).long(),
        )

    def tokens(self, images: Tensor, mask: Any) -> Tensor:
        embedding = self.encoder.patch_embed
        patches = patchify(images, embedding.patch_size)
        patches = torch.where(mask.swapped[..., None], take(patches, mask.others), patches)
        swapped = unpatchify(patches, embedding.patch_size, embedding.grid_size)
        hidden = mask.masked & ~mask.unchanged & ~mask.swapped
        return encode(self.encoder, swapped, corrupt=(hidden, self.mask_token))
