"""Denoising autoencoder (Vincent et al., ICML 2008; as in MAE's and CAE's related work) on a ViT."""

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae.methods.corrupted import CorruptedMethod
from mae.models.masking import Mask
from mae.models.patches import patchify, unpatchify
from mae.models.vit import encode


class Denoising(CorruptedMethod):
    """The pixels of some patches are set to 0, the channel's mean; every pixel is reconstructed.

    `pretrain.mask` chooses the patches; no token marks them. The paper masks single pixels.
    """

    paper_mask = ("random", 0.5)
    paper_target = "pixels"

    def __init__(self, encoder: VisionTransformer, **masked: Any) -> None:
        super().__init__(encoder, **masked)
        del self.mask_token  # it would not be used

    def forward(
        self, images: Tensor, noise: Tensor | None = None, cached: Tensor | None = None
    ) -> dict[str, Tensor]:
        """images (N, C, H, W) -> {"loss": the target's, over all patches}; noise fixes the mask."""
        predicted = self.predict(images, self.sample_mask(images, noise))
        return {"loss": self.loss(predicted, self.target_of(images, cached=cached))}

    def tokens(self, images: Tensor, mask: Mask) -> Tensor:
        embedding = self.encoder.patch_embed
        patches = patchify(images, embedding.patch_size).masked_fill(mask.masked[..., None], 0)
        return encode(self.encoder, unpatchify(patches, embedding.patch_size, embedding.grid_size))
