"""Context autoencoder (Chen et al., arXiv 2202.03026)."""

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from mae.methods.masked_image_modeling import MaskedImageModeling
from mae.models.decoder import LatentDecoder
from mae.models.masking import Mask
from mae.models.patches import put, take
from mae.models.regressor import Regressor
from mae.models.vit import encode


class CAE(MaskedImageModeling):
    """Encode the visible patches, regress the latents of the masked ones, decode those alone.

    The regressed latents must equal the encoder's own latents of the masked patches (alignment). The decoder
    never sees a visible patch, so that only the encoder learns to represent. Defaults are the paper's for
    ViT-B; there the encoder has drop path .1 and LayerScale, `init_values`, too (.1, ViT-L 1e-5).
    The release drops paths in regressor and decoder as well; here only the encoder's are dropped. In its
    table of positions rows come first, here columns as in MAE's: the same model, its channels reordered.
    """

    paper_mask = ("block", 0.38)  # 75 of 196 patches
    paper_target = "tokens"

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        regressor_depth: int = 4,
        decoder_depth: int = 4,
        alignment_weight: float = 2.0,
        init_values: float | None = 0.1,
        **masked: Any,
    ) -> None:
        super().__init__(encoder, **masked)
        block: Any = encoder.blocks[0]
        width, heads = encoder.embed_dim, block.attn.num_heads
        self.regressor = Regressor(width, heads, depth=regressor_depth, init_values=init_values)
        self.decoder = LatentDecoder(
            width, heads, self.target.width, depth=decoder_depth, init_values=init_values
        )
        self.alignment_weight = alignment_weight

    def forward(
        self, images: Tensor, noise: Tensor | None = None, cached: Tensor | None = None
    ) -> dict[str, Tensor]:
        """images (N, C, H, W) -> {"loss": the target's + alignment_weight * alignment, and those two}."""
        mask = self.sample_mask(images, noise)
        latents = self.regress(images, mask)
        predicted = self.decoder(latents, self._positions(mask.masked_ids))
        predicting = self.loss(predicted, self.target_of(images, mask.masked_ids, cached))
        aligning = F.mse_loss(
            latents.to(predicting.dtype), self.alignment_target(images, mask).to(predicting.dtype)
        )
        loss = predicting + self.alignment_weight * aligning
        return {"loss": loss, "prediction_loss": predicting, "alignment_loss": aligning}

    def regress(self, images: Tensor, mask: Mask) -> Tensor:
        """Regress the latents (N, M, D) of the masked patches from the visible ones."""
        visible = encode(self.encoder, images, mask.visible_ids)[:, 1:]
        return self.regressor(visible, self._positions(mask.visible_ids), self._positions(mask.masked_ids))

    @torch.no_grad()
    def alignment_target(self, images: Tensor, mask: Mask) -> Tensor:
        """Encode the masked patches alone: latents (N, M, D), without gradient."""
        return encode(self.encoder, images, mask.masked_ids)[:, 1:]

    def predict(self, images: Tensor, mask: Mask, wanted_ids: Tensor | None = None) -> Tensor:
        """Predict the masked patches; predictions of visible ones are zeros."""
        predicted = self.decoder(self.regress(images, mask), self._positions(mask.masked_ids))
        nothing = predicted.new_zeros(*mask.masked.shape, predicted.shape[-1])
        everywhere = put(predicted, mask.masked_ids, onto=nothing)
        return everywhere if wanted_ids is None else take(everywhere, wanted_ids)

    def autoencode(self, images: Tensor) -> Tensor:
        return self.decoder(encode(self.encoder, images)[:, 1:], self._positions()[None])

    @property
    def picture_note(self) -> str:
        own = "Own latents: all patches, decoded from the latents that the encoder itself gives them"
        return f"{super().picture_note}. {own}"

    def _positions(self, ids: Tensor | None = None) -> Tensor:
        """Look up the encoder's fixed positions (N, M, D) of the patches ids (N, M); (L, D) without them."""
        table: Any = self.encoder.pos_embed
        return table[0, 1:] if ids is None else table[0, 1:][ids]
