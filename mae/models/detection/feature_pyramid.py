"""A feature pyramid from the last map of a plain ViT alone (ViTDet, arXiv 2203.16527)."""

from collections import OrderedDict
from functools import partial
from typing import Any

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

channel_norm: Any = partial(LayerNorm2d, eps=1e-6)  # over the channels of (N, C, H, W), place by place
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # strides of the levels, in patches


class SimpleFeaturePyramid(nn.Module):
    """A map (N, D, h, w), one vector per patch -> levels '0' to '3' and 'pool' of `channels` each.

    Their strides are SCALES times the patch: a quarter (two transposed convolutions), a half (one), one,
    two (max pooling), each followed by a 1x1 and a 3x3 convolution with LayerNorm; 'pool' is every second
    place of level '3'. Odd maps are rounded up, so that every level covers the image.

    Raises ValueError for a width D that cannot be quartered.
    """

    def __init__(self, dim: int, channels: int = 256) -> None:
        super().__init__()
        if dim % 4:
            raise ValueError(
                f"the pyramid's finest level has a quarter of the width: {dim} is no multiple of 4"
            )
        quarter = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 2, 2, stride=2),
            channel_norm(dim // 2),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 2, dim // 4, 2, stride=2),
        )
        half = nn.ConvTranspose2d(dim, dim // 2, 2, stride=2)
        double = nn.MaxPool2d(2, ceil_mode=True)
        rescaled = ((quarter, dim // 4), (half, dim // 2), (nn.Identity(), dim), (double, dim))
        self.levels = nn.ModuleList(
            nn.Sequential(
                rescale,
                nn.Conv2d(width, channels, 1, bias=False),
                channel_norm(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                channel_norm(channels),
            )
            for rescale, width in rescaled
        )
        self.out_channels = channels

    def forward(self, features: Tensor) -> "OrderedDict[str, Tensor]":
        """Compute the levels (N, channels, ..), finest first: 4, 2, 1, 1/2 and 1/4 times h x w."""
        maps = OrderedDict((str(number), level(features)) for number, level in enumerate(self.levels))
        maps["pool"] = F.max_pool2d(maps["3"], kernel_size=1, stride=2)
        return maps
