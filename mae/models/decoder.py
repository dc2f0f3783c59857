"""Decoders, latents to predictions: MAE's of the visible patches, CAE's of the masked ones."""

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from mae.models.patches import Pair, put, sincos_positions, take
from mae.models.vit import layer_norm, xavier


class Decoder(nn.Module):
    """Transformer blocks over visible latents and mask tokens (arXiv 2111.06377, section 3 and A.1).

    embed_dim: the encoder's width; grid: its patches (rows, columns); out_dim: T, values per patch.
    mask_tokens: False where the encoder saw mask tokens and gives latents of all patches (table 1c).
    Raises ValueError where decoder_embed_dim does not divide by 4 or by decoder_num_heads.
    """

    def __init__(
        self,
        embed_dim: int,
        grid: Pair,
        out_dim: int,
        *,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mlp_ratio: float = 4.0,
        mask_tokens: bool = True,
    ) -> None:
        super().__init__()
        if decoder_embed_dim % decoder_num_heads:
            raise ValueError(
                f"decoder_embed_dim {decoder_embed_dim} must be divisible by "
                f"decoder_num_heads {decoder_num_heads}"
            )
        table = sincos_positions(decoder_embed_dim, grid)
        self.embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_embed_dim)) if mask_tokens else None
        # Its own table, class row included; a frozen parameter, because the released checkpoints hold it.
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + len(table), decoder_embed_dim), requires_grad=False)
        self.blocks = nn.Sequential(
            *[
                Block(decoder_embed_dim, decoder_num_heads, mlp_ratio, qkv_bias=True, norm_layer=layer_norm)
                for _ in range(decoder_depth)
            ]
        )
        self.norm = layer_norm(decoder_embed_dim)
        self.pred = nn.Linear(decoder_embed_dim, out_dim)
        self.apply(xavier)
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=0.02)
        with torch.no_grad():
            self.pos_embed.copy_(F.pad(table, (0, 0, 1, 0))[None])

    def forward(self, latents: Tensor, visible_ids: Tensor, wanted_ids: Tensor | None = None) -> Tensor:
        """latents (N, 1+V, D) of patches visible_ids (N, V) -> predictions (N, M, T) for wanted_ids (N, M).

        Without `wanted_ids`, for all L patches in order. The head runs only on these. A decoder
        without mask tokens takes latents (N, 1+L, D) and ignores visible_ids.
        """
        tokens = self.embed(latents)
        if self.mask_token is not None:
            first, visible = tokens[:, :1], tokens[:, 1:]
            length = self.pos_embed.shape[1] - 1
            everywhere = put(visible, visible_ids, onto=self.mask_token.expand(len(tokens), length, -1))
            tokens = torch.cat([first.to(everywhere.dtype), everywhere], dim=1)
        tokens = self.blocks(tokens + self.pos_embed)
        tokens = tokens[:, 1:] if wanted_ids is None else take(tokens, wanted_ids + 1)
        return self.pred(self.norm(tokens))


class LatentDecoder(nn.Module):
    """CAE's decoder: blocks over latents of patches plus their positions (arXiv 2202.03026, section 3.1).

    embed_dim, num_heads: the encoder's; out_dim: T, values per patch. init_values: LayerScale at the start;
    None: no LayerScale.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        out_dim: int,
        *,
        depth: int = 4,
        mlp_ratio: float = 4.0,
        init_values: float | None = 0.1,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *[
                Block(
                    embed_dim,
                    num_heads,
                    mlp_ratio,
                    qkv_bias=True,
                    init_values=init_values,
                    norm_layer=layer_norm,
                )
                for _ in range(depth)
            ]
        )
        self.norm = layer_norm(embed_dim)
        self.pred = nn.Linear(embed_dim, out_dim)
        self.apply(xavier)

    def forward(self, latents: Tensor, positions: Tensor) -> Tensor:
        """Latents (N, M, D) of patches at positions (N, M, D) -> predictions (N, M, T)."""
        return self.pred(self.norm(self.blocks(latents + positions)))
