"""Masked autoencoder (He et al., arXiv 2111.06377)."""

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae.methods.masked import MaskedMethod
from mae.models.decoder import Decoder
from mae.models.encoder import encode
from mae.models.masking import Mask


class MAE(MaskedMethod):
    """Encode the visible patches, predict the masked ones by a light decoder. Defaults are the paper's."""

    paper = ("random", 0.75, "normalised_pixels")

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        **masked: Any,
    ) -> None:
        super().__init__(encoder, **masked)
        self.decoder = Decoder(
            encoder.embed_dim,
            encoder.patch_embed.grid_size,
            self.target.width,
            decoder_embed_dim=decoder_embed_dim,
            decoder_depth=decoder_depth,
            decoder_num_heads=decoder_num_heads,
        )

    def predict(self, images: Tensor, mask: Mask, wanted_ids: Tensor | None = None) -> Tensor:
        latents = encode(self.encoder, images, mask.visible_ids)
        return self.decoder(latents, mask.visible_ids, wanted_ids)
