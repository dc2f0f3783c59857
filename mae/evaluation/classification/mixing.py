"""Batches on the device before training: normalisation, random erasing, mixup and cutmix."""

from collections.abc import Callable

import torch
from timm.data.mixup import Mixup, mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from mae.evaluation.classification.protocols import Recipe


class Mixing:
    """A map from uint8 images (N, C, H, W) and labels (N,) to float images and targets, all on `device`.

    Random erasing by pixel, then mixup or cutmix of the whole batch with itself reversed, as in timm.
    Targets are soft (N, classes) where images are mixed, else the labels. Draws from the process-wide
    generators of random, numpy and torch.
    """

    def __init__(
        self,
        normalize: Callable[[Tensor], Tensor],
        recipe: Recipe,
        num_classes: int,
        device: torch.device,
        *,
        mixes: bool = True,
    ) -> None:
        self._normalize = normalize
        self._classes = num_classes
        self._smoothing = recipe.smoothing if mixes else 0.0
        self._erase: RandomErasing | None = None
        self._mixup: Mixup | None = None
        if mixes and recipe.random_erasing:
            self._erase = RandomErasing(recipe.random_erasing, mode="pixel", max_count=1, device=str(device))
        if mixes and (recipe.mixup or recipe.cutmix):
            self._mixup = Mixup(
                recipe.mixup, recipe.cutmix, label_smoothing=recipe.smoothing, num_classes=num_classes
            )

    @property
    def smoothing(self) -> float:
        """The label smoothing that the loss must apply: none where soft targets have it already."""
        return 0.0 if self._mixup else self._smoothing

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = self._normalize(images)
        if self._erase is not None:
            images = self._erase(images)
        if self._mixup is None:
            return images, labels
        even = len(images) // 2 * 2  # mixing pairs first with last: in an odd batch one image stays plain
        targets = mixup_target(labels, self._classes, lam=1.0, smoothing=self._smoothing)
        if even:
            images[:even], targets[:even] = self._mixup(images[:even], labels[:even])
        return images, targets
