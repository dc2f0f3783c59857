"""Base of methods whose encoder takes every patch, the masked ones corrupted; a linear layer predicts."""

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mae.methods.masked_image_modeling import MaskedImageModeling
from mae.models.masking import Mask
from mae.models.patches import take
from mae.models.vit import encode, xavier


class CorruptedMethod(MaskedImageModeling):
    """Masked patches enter the encoder as a learnt mask token; a subclass may corrupt them in another way."""

    def __init__(self, encoder: VisionTransformer, **masked: Any) -> None:
        super().__init__(encoder, **masked)
        self.head = nn.Linear(encoder.embed_dim, self.target.width).apply(xavier)
        self.mask_token = nn.Parameter(torch.empty(1, 1, encoder.embed_dim))
        nn.init.normal_(self.mask_token, std=0.02)

    def tokens(self, images: Tensor, mask: Mask) -> Tensor:
        """Encode images (N, C, H, W), masked patches corrupted, to tokens (N, 1+L, D)."""
        return encode(self.encoder, images, corrupt=(mask.masked, self.mask_token))

    def predict(self, images: Tensor, mask: Mask, wanted_ids: Tensor | None = None) -> Tensor:
        tokens = self.tokens(images, mask)[:, 1:]
        return self.head(tokens if wanted_ids is None else take(tokens, wanted_ids))
