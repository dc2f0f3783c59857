"""The augmentations of `pretrain.augment` by name: MAE's Table 1e and MoCo v3's two views."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torchvision.transforms import v2

from mae.data.transforms.image import Size, Transform, pretraining
from mae.suggestions import not_one_of

# Brightness, contrast, saturation, hue: MoCo v3's (arXiv 2104.02057). MAE's Table 1e does not give its own.
JITTER = (0.4, 0.4, 0.2, 0.1)
_SOLARIZE = 128


class TwoViews:
    """Two views of one image: crop, flip, jitter, grey, blur, solarize (BYOL's, arXiv 2006.07733, B).

    The views differ: the first is always blurred, the second seldom, and only the second is solarized.
    scale: area fraction of the crops. Blur: standard deviation .1 to 2 pixels, over a tenth of the side.
    """

    def __init__(self, size: Size, *, scale: tuple[float, float] = (0.08, 1.0), flip: bool = True) -> None:
        crop = pretraining(size, scale=scale, flip=flip)
        side = size if isinstance(size, int) else min(size)
        kernel = max(3, side // 10 // 2 * 2 + 1)  # odd; 23 of 224 pixels
        self.views = tuple(
            v2.Compose(
                [
                    crop,
                    v2.RandomApply([v2.ColorJitter(*JITTER)], 0.8),
                    v2.RandomGrayscale(0.2),
                    v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], blurred),
                    v2.RandomSolarize(_SOLARIZE, solarized),
                ]
            )
            for blurred, solarized in ((1.0, 0.0), (0.1, 0.2))
        )

    def __call__(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(view(image) for view in self.views)


AUGMENTATIONS: dict[str, Callable[..., Transform | TwoViews]] = {
    # The table's "none" is not mirrored either: set `flip` to false.
    "none": lambda size, *, scale, flip: pretraining(size, flip=flip, crop="centre"),
    "fixed_crop": lambda size, *, scale, flip: pretraining(size, flip=flip, crop="fixed"),
    "crop": pretraining,
    "crop_jitter": partial(pretraining, jitter=JITTER),
    "two_views": TwoViews,
}


def augmentation(
    name: str, size: Size, *, views: int = 1, scale: tuple[float, float] = (0.2, 1.0), flip: bool = True
) -> tuple[Callable[[torch.Tensor], Any], int]:
    """Build the transform of that name, and count the loader's calls for `views` views of an image.

    "two_views" makes both in one call; the others make one a call, so that views differ by chance alone.
    Raises ValueError for an unknown name, or two views for a method that takes one.
    """
    if name not in AUGMENTATIONS:
        raise ValueError(f"augment {not_one_of(name, AUGMENTATIONS)}")
    transform = AUGMENTATIONS[name](size, scale=scale, flip=flip)
    at_once = len(transform.views) if isinstance(transform, TwoViews) else 1
    if views % at_once:
        raise ValueError(f"augment {name!r} makes {at_once} views of an image, the method takes {views}")
    return transform, views // at_once
