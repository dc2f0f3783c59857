"""Attention of an encoder's last block over the patches (CAE, arXiv 2202.03026, figure 6)."""

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from mae.models.vit import encode


@torch.no_grad()
def attention_maps(vit: VisionTransformer, images: Tensor, pool: str = "token") -> Tensor:
    """Compute each patch's share of attention in the last block: (N, rows, columns), sum 1 per image.

    The mean over heads of the attention that patches get from the class token (pool "token", as in the
    paper) or from all patches (pool "avg", for features that are the mean patch token). images (N, C, H, W):
    normalised. Leaves the mode of `vit` unchanged.
    """
    attention: Any = vit.blocks[-1].attn
    seen: list[Tensor] = []
    listening = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    training = vit.training
    try:
        encode(vit.eval(), images)
    finally:
        listening.remove()
        vit.train(training)
    queries, keys = _queries_and_keys(attention, seen[0])
    queries = queries[:, :, :1] if pool == "token" else queries[:, :, 1:]
    shares = (queries @ keys.transpose(-2, -1)).softmax(-1).mean((1, 2))[:, 1:]  # without the class token's
    return (shares / shares.sum(1, keepdim=True)).unflatten(1, vit.patch_embed.grid_size)


def centre_share(maps: Tensor) -> Tensor:
    """Compute the shares (N,) of attention maps (N, rows, columns) on the middle quarter of the area.

    Even attention gives 0.25; a patch at the edge of the quarter counts by its part inside.
    """
    inside = [_overlap(side).to(maps) for side in maps.shape[1:]]
    return torch.einsum("nij,i,j->n", maps, *inside)


def _overlap(count: int) -> Tensor:
    """Compute how much of each of `count` equal parts of a line lies in the line's middle half."""
    edges = torch.arange(count + 1, dtype=torch.float64) / count
    return (edges[1:].clamp(0.25, 0.75) - edges[:-1].clamp(0.25, 0.75)) * count


def _queries_and_keys(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Compute scaled queries and keys, (N, heads, K, D / heads) each, float32."""
    qkv = attention.qkv(tokens).float().unflatten(2, (3, attention.num_heads, -1))
    queries, keys, _ = qkv.permute(2, 0, 3, 1, 4)
    return queries * attention.scale, keys
