"""A plain ViT as a dense backbone: the maps after some of its blocks, and these maps at four strides."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mae.models.patches import Pair
from mae.models.vit import resize_positions

LEVELS = 4


def check_out_indices(out_indices: Sequence[int], depth: int) -> tuple[int, ...]:
    """Check four 0-based block numbers in ascending order, ending with the last; return a tuple.

    None is repeated, unless the encoder has fewer blocks or all are the last: that is ViTDet's pyramid, of
    the last map alone. Raises ValueError otherwise; a block after the last of them would run without use and
    never learn.
    """
    blocks = tuple(out_indices)
    ascending = all(first <= second for first, second in pairwise(blocks))
    repeats = 1 < len(set(blocks)) < min(LEVELS, depth)
    if len(blocks) != LEVELS or not ascending or repeats or blocks[0] < 0 or blocks[-1] != depth - 1:
        raise ValueError(
            f"taps {list(blocks)}: name {LEVELS} blocks in ascending order that end with the encoder's last, "
            f"{depth - 1}; such as {[max(0, depth * part // 4 - 1) for part in (1, 2, 3, 4)]}"
        )
    return blocks


def pad_to_multiple(images: Tensor, multiple: int | Pair) -> Tensor:
    """Pad (N, C, H, W) with zeros at the bottom and right to multiples of `multiple`."""
    rows, columns = (multiple, multiple) if isinstance(multiple, int) else multiple
    height, width = images.shape[-2:]
    if height % rows == 0 and width % columns == 0:
        return images
    return F.pad(images, (0, -width % columns, 0, -height % rows))


def encode_intermediate(
    vit: VisionTransformer, images: Tensor, out_indices: Sequence[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """Encode to patch maps (N, D, H/P, W/P) and class tokens (N, 1, D) after the blocks out_indices, no norm.

    images (N, C, H, W): any size that the patches tile (see `pad_to_multiple`); the positions are resampled
    to its grid where the encoder's own is another (`vit.resize_positions`).
    """
    embedded = vit.patch_embed.proj(images)
    grid = (embedded.shape[-2], embedded.shape[-1])
    positions = _positions(vit, grid)
    patches = embedded.flatten(2).transpose(1, 2) + positions[:, 1:]
    first = (cast(Tensor, vit.cls_token) + positions[:, :1]).expand(len(patches), -1, -1)
    tokens = vit.pos_drop(torch.cat([first, patches], dim=1))
    maps, class_tokens = [], []
    for number, block in enumerate(vit.blocks):
        if vit.grad_checkpointing and vit.training:
            tokens = cast(Tensor, checkpoint(block, tokens, use_reentrant=False))
        else:
            tokens = block(tokens)
        for _ in range(list(out_indices).count(number)):
            maps.append(tokens[:, 1:].transpose(1, 2).unflatten(2, grid))
            class_tokens.append(tokens[:, :1])
    return maps, class_tokens


def _positions(vit: VisionTransformer, grid: Pair) -> Tensor:
    own = vit.patch_embed.grid_size
    return resize_positions({"pos_embed": cast(Tensor, vit.pos_embed)}, own, grid)["pos_embed"]


class Rescale(nn.Module):
    """Four maps of one stride P as a pyramid of strides P/4, P/2, P and 2P, each (N, D, ., .).

    Two transposed convolutions with batch norm and GELU between, one, none, and a max pool, as in BEiT's
    segmentation (arXiv 2106.08254, A).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.four_times = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, stride=2),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, 2, stride=2),
        )
        self.twice = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.halved = nn.MaxPool2d(2, ceil_mode=True)  # ceil: a map of one patch stays one patch

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        first, second, third, fourth = maps
        return [self.four_times(first), self.twice(second), third, self.halved(fourth)]
