"""A plain ViT at detection's resolution: windowed attention, decomposed relative positions, any image size.

The form of ViTDet (arXiv 2203.16527): the pretrained blocks as they are, most of them attending within
windows, a few over the whole image; no class token, no final norm. g heights, h heads, c their width.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.layers import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mae.models.vit import resize_positions

ALIGNMENT = 8  # the fused kernels take head widths in multiples of 8


class RelativePositions(nn.Module):
    """Learned tables (2 * extent - 1, c) of a vector per distance along each axis, zero at first.

    extent (rows, columns): the grid that the tables are made for; others get them resized linearly.
    """

    def __init__(self, extent: tuple[int, int], width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(2 * extent[0] - 1, width))
        self.columns = nn.Parameter(torch.zeros(2 * extent[1] - 1, width))

    def forward(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Look up vectors (H, H, c) from row to row of a grid (H, W), and (W, W, c) for its columns."""
        return _by_distance(self.rows, grid[0]), _by_distance(self.columns, grid[1])


def _by_distance(table: Tensor, extent: int) -> Tensor:
    if len(table) != 2 * extent - 1:
        table = F.interpolate(table.T[None], size=2 * extent - 1, mode="linear")[0].T
    place = torch.arange(extent, device=table.device)
    return table[place[:, None] - place + extent - 1]


def attend(attention: Attention, tokens: Tensor, relative: RelativePositions) -> Tensor:
    """timm's attention over tokens (N, H, W, D) of one grid, with a bias by relative position.

    The logit of query q and key k is scale * q.k + q.rows[q's row, k's row] + q.columns[its column, k's]
    (arXiv 2112.01526). That sum is one inner product, [scale * q, q.rows, q.columns] . [k, one-hot row,
    one-hot column], so a fused kernel computes it and the (H*W, H*W) matrix is never built.
    """
    n, height, width = tokens.shape[:3]
    qkv = attention.qkv(tokens.flatten(1, 2)).unflatten(2, (3, attention.num_heads, -1))
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    rows, columns = relative((height, width))
    image = query.unflatten(2, (height, width))
    by_row = torch.einsum("nayxc,ykc->nayxk", image, rows.to(query.dtype)).flatten(2, 3)
    by_column = torch.einsum("nayxc,xkc->nayxk", image, columns.to(query.dtype)).flatten(2, 3)
    places = _one_hot_places(height, width, key).expand(*key.shape[:2], -1, -1)
    query = _aligned(torch.cat([query * attention.scale, by_row.to(query), by_column.to(query)], dim=-1))
    key = _aligned(torch.cat([key, places], dim=-1))
    # Some fused kernels need values as wide as keys: zero columns are added and dropped again.
    wide = F.pad(value, (0, key.shape[-1] - value.shape[-1]))
    mixed = F.scaled_dot_product_attention(query, key, wide, scale=1.0)[..., : value.shape[-1]]
    mixed = mixed.transpose(1, 2).reshape(n, height, width, -1)
    return attention.proj_drop(attention.proj(mixed))


def _one_hot_places(height: int, width: int, like: Tensor) -> Tensor:
    """Make (H*W, H+W): for each place of the grid a one in its row's and a one in its column's slot."""
    rows = torch.eye(height, dtype=like.dtype, device=like.device).repeat_interleave(width, dim=0)
    columns = torch.eye(width, dtype=like.dtype, device=like.device).repeat(height, 1)
    return torch.cat([rows, columns], dim=1)


def _aligned(vectors: Tensor) -> Tensor:
    return F.pad(vectors, (0, -vectors.shape[-1] % ALIGNMENT))


def partition(tokens: Tensor, window: int) -> Tensor:
    """Split tokens (N, H, W, D) into windows (N * windows, window, window, D), row by row, zero-padded."""
    height, width, dim = tokens.shape[1:]
    tokens = F.pad(tokens, (0, 0, 0, -width % window, 0, -height % window))
    tokens = tokens.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return tokens.transpose(2, 3).reshape(-1, window, window, dim)


def unpartition(windows: Tensor, grid: tuple[int, int]) -> Tensor:
    """Undo `partition` of a grid (H, W): windows (N * windows, window, window, D) -> (N, H, W, D)."""
    window = windows.shape[1]
    down, across = -(-grid[0] // window), -(-grid[1] // window)
    tokens = windows.unflatten(0, (-1, down, across)).transpose(2, 3)
    return tokens.flatten(3, 4).flatten(1, 2)[:, : grid[0], : grid[1]]


class WindowedViT(nn.Module):
    """A stock timm ViT that computes a feature map of images of any size.

    encoder: built by `vit.build`, without its norm and heads; grid (rows, columns): the patches of the
    images that it will mostly see, for the tables of the global blocks; window: side of a window in patches;
    global_blocks: the 0-based blocks that attend over the whole image. A state dict has timm's names under
    `encoder.` and each block's tables under `relative.<block>.`.

    Raises ValueError for a window below 1 or a global block that the encoder does not have.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        grid: tuple[int, int],
        window: int = 14,
        global_blocks: Sequence[int] = (2, 5, 8, 11),
    ) -> None:
        super().__init__()
        depth = len(encoder.blocks)
        outside = [block for block in global_blocks if not 0 <= block < depth]
        if outside:
            raise ValueError(
                f"global_blocks {outside}: the encoder's blocks are 0 to {depth - 1}; with depth {depth} "
                f"ViTDet's are {[depth * part // 4 - 1 for part in range(1, 5) if depth * part >= 4]}"
            )
        if window < 1:
            raise ValueError(f"window must be at least 1 patch, not {window}")
        self.encoder = encoder
        self.window = window
        self.global_blocks = frozenset(global_blocks)
        first: Any = encoder.blocks[0]
        self.relative = nn.ModuleList(
            RelativePositions(
                grid if block in self.global_blocks else (window, window),
                first.attn.qkv.in_features // first.attn.num_heads,
            )
            for block in range(depth)
        )
        # Neither is used: if trainable, replicated training would wait for their gradients.
        for unused in (encoder.cls_token, *encoder.norm.parameters()):
            unused.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images (N, C, H, W) to a map (N, D, ceil(H / P), ceil(W / P)), P the patch side.

        Sides that patches do not tile are padded with zeros at the bottom and right. Positions are resampled
        bicubically to the grid.
        """
        embedding = self.encoder.patch_embed
        high, wide = embedding.patch_size
        images = F.pad(images, (0, -images.shape[-1] % wide, 0, -images.shape[-2] % high))
        tokens = embedding.proj(images).permute(0, 2, 3, 1)
        grid = (tokens.shape[1], tokens.shape[2])
        table = cast(Tensor, self.encoder.pos_embed)  # timm types it as optional
        positions = resize_positions({"pos_embed": table}, embedding.grid_size, grid)["pos_embed"]
        tokens = self.encoder.pos_drop(tokens + positions[:, 1:].unflatten(1, grid))
        for index, (block, relative) in enumerate(zip(self.encoder.blocks, self.relative, strict=True)):
            tokens = self._block(block, relative, tokens, index in self.global_blocks)
        return tokens.permute(0, 3, 1, 2)

    def _block(self, block: Any, relative: Any, tokens: Tensor, is_global: bool) -> Tensor:
        """Run one pre-norm block over tokens (N, H, W, D); drop path drops whole images, not windows."""
        grid = (tokens.shape[1], tokens.shape[2])
        normed = block.norm1(tokens)
        if is_global:
            mixed = attend(block.attn, normed, relative)
        else:
            mixed = unpartition(attend(block.attn, partition(normed, self.window), relative), grid)
        tokens = tokens + block.drop_path1(block.ls1(mixed))
        return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
