"""Classification heads: from the tokens of an encoder to logits."""

import torch
from torch import Tensor, nn


def linear_head(embed_dim: int, num_classes: int, num_heads: int) -> nn.Module:
    """Build a Linear (N, D) -> (N, classes), nearly zero at first (MAE's fine-tuning as released)."""
    head = nn.Linear(embed_dim, num_classes)
    return _start(head, 2e-5)


def probe_head(embed_dim: int, num_classes: int, num_heads: int) -> nn.Module:
    """Build (N, D) -> (N, classes): BatchNorm without affine part, then Linear (MAE, A.1, linear probing)."""
    layer = _start(nn.Linear(embed_dim, num_classes), 0.01)
    return nn.Sequential(nn.BatchNorm1d(embed_dim, affine=False, eps=1e-6), layer)


class AttentiveHead(nn.Module):
    """A head (N, K, D) -> (N, classes) whose learnable query attends to all tokens (arXiv 2202.03026, 4.1).

    LayerNorm on query, keys and values; no MLP, no residual; then the linear probe's BatchNorm and Linear.
    """

    def __init__(self, embed_dim: int, num_classes: int, num_heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, embed_dim))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.norm_query = nn.LayerNorm(embed_dim, eps=1e-6)
        self.norm_key = nn.LayerNorm(embed_dim, eps=1e-6)
        self.norm_value = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attention = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)
        self.classify = probe_head(embed_dim, num_classes, num_heads)

    def forward(self, tokens: Tensor) -> Tensor:
        query = self.norm_query(self.query).expand(len(tokens), -1, -1)
        pooled, _ = self.attention(query, self.norm_key(tokens), self.norm_value(tokens), need_weights=False)
        return self.classify(pooled[:, 0])


def _start(layer: nn.Linear, std: float) -> nn.Linear:
    nn.init.trunc_normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)
    return layer
