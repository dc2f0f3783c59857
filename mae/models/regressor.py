"""CAE's latent contextual regressor: from the latents of visible patches to those of masked ones."""

import torch
from timm.layers import LayerScale, Mlp
from torch import Tensor, nn

from mae.models.vit import layer_norm, xavier


class Regressor(nn.Module):
    """Cross-attention from mask queries to visible latents and themselves (arXiv 2202.03026, section 3.1).

    embed_dim, num_heads: the encoder's. init_values: LayerScale at the start; None: no LayerScale.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        depth: int = 4,
        mlp_ratio: float = 4.0,
        init_values: float | None = 0.1,
    ) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.blocks = nn.ModuleList(
            RegressorBlock(embed_dim, num_heads, mlp_ratio, init_values) for _ in range(depth)
        )
        self.norm = layer_norm(embed_dim)
        self.apply(xavier)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, visible: Tensor, visible_positions: Tensor, masked_positions: Tensor) -> Tensor:
        """Regress latents (N, M, D) at masked_positions (N, M, D) from those (N, V, D) at visible_positions.

        The visible latents are never changed.
        """
        queries = self.mask_token.to(visible.dtype).expand(masked_positions.shape)
        positions = torch.cat([visible_positions, masked_positions], dim=1)
        for block in self.blocks:
            queries = block(queries, visible, masked_positions, positions)
        return self.norm(queries)


class RegressorBlock(nn.Module):
    """One layer. Unlike a ViT's block it normalises the residual stream itself, between its two halves."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_ratio: float, init_values: float | None) -> None:
        super().__init__()
        self.norm_query, self.norm_key, self.norm_value = (layer_norm(embed_dim) for _ in range(3))
        self.attn = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)
        for part in self.attn.in_proj_weight.data.chunk(3):  # three matrices; torch initialises them as one
            nn.init.xavier_uniform_(part)
        self.scale_attn = _layer_scale(embed_dim, init_values)
        self.norm = layer_norm(embed_dim)
        self.mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio))
        self.scale_mlp = _layer_scale(embed_dim, init_values)

    def forward(self, queries: Tensor, visible: Tensor, query_positions: Tensor, positions: Tensor) -> Tensor:
        context = torch.cat([visible, queries.to(visible.dtype)], dim=1)
        attended, _ = self.attn(
            self.norm_query(queries + query_positions),
            self.norm_key(context + positions),
            self.norm_value(context),
            need_weights=False,
        )
        queries = self.norm(queries + self.scale_attn(attended))
        return queries + self.scale_mlp(self.mlp(queries))


def _layer_scale(embed_dim: int, init_values: float | None) -> nn.Module:
    return nn.Identity() if init_values is None else LayerScale(embed_dim, init_values)
