"""UPerNet's head (Xiao et al. 2018, arXiv 1807.10221) and its auxiliary FCN head.

Both take maps (N, D, h, w) and give logits (N, classes, h, w); all interpolation is bilinear with corners not
aligned.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mae.models.patches import Pair
from mae.models.segmentation.intermediate_features import LEVELS, Rescale

POOLS = (1, 2, 3, 6)


def conv_norm(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    """Build a convolution of the same output size without bias, batch norm and ReLU."""
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


def classify_pixels(channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    """Build dropout of whole channels and a 1x1 convolution to logits that are nearly zero at first."""
    layer = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(cast(nn.Parameter, layer.bias), 0)
    return nn.Sequential(nn.Dropout2d(dropout), layer)


def resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (N, C, h, w) to (rows, columns)."""
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


class PyramidPooling(nn.Module):
    """(N, D, h, w) -> (N, channels, h, w) that has seen the whole map: means over 1, 2x2, 3x3 and 6x6 parts.

    Zhao et al. 2017 (arXiv 1612.01105), 3.2; the parts are joined with the map by a 3x3 convolution.
    """

    def __init__(self, width: int, channels: int, pools: Sequence[int] = POOLS) -> None:
        super().__init__()
        self.pools = tuple(pools)
        self.parts = nn.ModuleList(conv_norm(width, channels, 1) for _ in self.pools)
        self.join = conv_norm(width + len(self.pools) * channels, channels, 3)

    def forward(self, top: Tensor) -> Tensor:
        seen = [top]
        for cells, part in zip(self.pools, self.parts, strict=True):
            seen.append(resized(part(F.adaptive_avg_pool2d(top, cells)), top.shape[-2:]))
        return self.join(torch.cat(seen, dim=1))


class UPerHead(nn.Module):
    """A pyramid of maps, finest first, each (N, D, ., .) -> logits (N, classes, h, w) at the finest stride.

    Pyramid pooling on the coarsest level, then top-down: each finer level, brought to `channels` by a 1x1
    convolution, adds the level above; a 3x3 convolution smooths each sum; all levels are joined at the
    finest stride by one more.
    """

    def __init__(
        self, widths: Sequence[int], num_classes: int, channels: int = 512, dropout: float = 0.1
    ) -> None:
        super().__init__()
        finer = widths[:-1]
        self.pooling = PyramidPooling(widths[-1], channels)
        self.lateral = nn.ModuleList(conv_norm(width, channels, 1) for width in finer)
        self.smooth = nn.ModuleList(conv_norm(channels, channels, 3) for _ in finer)
        self.join = conv_norm(len(widths) * channels, channels, 3)
        self.classify = classify_pixels(channels, num_classes, dropout)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        above = self.pooling(pyramid[-1])
        levels = [above]
        for number in reversed(range(len(self.lateral))):
            lateral = self.lateral[number](pyramid[number])
            above = lateral + resized(above, lateral.shape[-2:])
            levels.insert(0, self.smooth[number](above))
        finest = levels[0].shape[-2:]
        joined = self.join(torch.cat([levels[0], *(resized(level, finest) for level in levels[1:])], dim=1))
        return self.classify(joined)


class UPerNet(nn.Module):
    """Maps (N, D, h, w) after four blocks -> logits (N, classes, 4h, 4w): `Rescale`, then `UPerHead`."""

    def __init__(
        self, width: int, patch: Pair, num_classes: int, channels: int = 512, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.rescale = Rescale(width)
        self.decode = UPerHead([width] * LEVELS, num_classes, channels, dropout)

    @staticmethod
    def multiple(patch: Pair) -> Pair:
        """Return the number of pixels that an image's sides are padded to a multiple of: the patch's."""
        return patch

    def forward(self, maps: Sequence[Tensor], class_tokens: Sequence[Tensor]) -> Tensor:
        return self.decode(self.rescale(maps))


class FCNHead(nn.Sequential):
    """(N, D, h, w) -> logits (N, classes, h, w) by one 3x3 convolution (arXiv 1411.4038; auxiliary loss)."""

    def __init__(self, width: int, num_classes: int, channels: int = 256, dropout: float = 0.1) -> None:
        super().__init__(conv_norm(width, channels, 3), classify_pixels(channels, num_classes, dropout))
