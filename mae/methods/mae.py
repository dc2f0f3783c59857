"""Masked autoencoder (He et al., arXiv 2111.06377)."""

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.methods.masked_image_modeling import MaskedImageModeling
from mae.models.decoder import Decoder
from mae.models.masking import Mask
from mae.models.vit import encode


class MAE(MaskedImageModeling):
    """Encode the visible patches, predict the masked ones by a light decoder. Defaults are the paper's.

    mask_tokens "encoder": every patch enters the encoder, the masked ones as a mask token (table 1c).
    """

    paper_mask = ("random", 0.75)
    paper_target = "normalised_pixels"

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mask_tokens: str = "decoder",
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
            mask_tokens=mask_tokens == "decoder",
        )
        self.mask_token: nn.Parameter | None = None
        if mask_tokens == "encoder":
            self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, encoder.embed_dim), std=0.02))
        elif mask_tokens != "decoder":
            raise ValueError(f"mask_tokens {mask_tokens!r}: choose decoder or encoder")

    def predict(self, images: Tensor, mask: Mask, wanted_ids: Tensor | None = None) -> Tensor:
        if self.mask_token is None:
            latents = encode(self.encoder, images, mask.visible_ids)
        else:
            latents = encode(self.encoder, images, corrupt=(mask.masked, self.mask_token))
        return self.decoder(latents, mask.visible_ids, wanted_ids)
