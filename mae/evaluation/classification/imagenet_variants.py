"""Other versions of ImageNet for a fine-tuned classifier: the sets, and the errors on ImageNet-C."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# CE divides by AlexNet's top-1 errors on ImageNet-C, the mean over the five severities: Hendrycks and
# Dietterich 2019, arXiv 1903.12261, section 4.2; six digits, from the evaluation that they published.
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class OtherSet:
    """Another version of ImageNet.

    folders: names that its unpacked folder may have. among_its_own: predictions are compared among the
    classes that the set has, as its authors do. crop_pct: of `transforms.evaluation`; None for its default.
    """

    folders: tuple[str, ...]
    among_its_own: bool = False
    crop_pct: float | None = None


SETS = {
    # Its images are centre crops already, 224 pixels wide: they are not cropped again.
    "imagenet_c": OtherSet(("imagenet-c", "ImageNet-C", "imagenet_c"), crop_pct=1.0),  # arXiv 1903.12261
    "imagenet_a": OtherSet(("imagenet-a", "imagenet_a"), among_its_own=True),  # arXiv 1907.07174
    "imagenet_r": OtherSet(("imagenet-r", "imagenet_r"), among_its_own=True),  # arXiv 2006.16241
    "imagenet_sketch": OtherSet(("imagenet-sketch", "imagenet_sketch", "sketch")),  # arXiv 1905.13549
}


class Among(nn.Module):
    """A classifier that chooses among some of its classes: the logits of the others are minus infinity."""

    def __init__(self, model: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.model, self.classes = model, list(classes)

    def logits(self, images: Tensor) -> Tensor:
        """Compute logits (N, classes of the model) of normalised images (N, C, H, W)."""
        logits = self.model(images)
        masked = torch.full_like(logits, -torch.inf)
        masked[:, self.classes] = logits[:, self.classes]
        return masked


def corruption_errors(errors: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Compute the CE of each corruption: its mean error over AlexNet's; 1 is as bad as AlexNet.

    errors: corruption -> top-1 error (fraction) at each severity. Raises ValueError for a corruption that is
    not one of ImageNet-C's, or one that lacks a severity.
    """
    for name, values in errors.items():
        if name not in ALEXNET_ERRORS or len(values) != len(SEVERITIES):
            raise ValueError(
                f"{name}: {len(values)} errors; expected a corruption of ImageNet-C at five severities"
            )
    return {name: sum(values) / len(values) / ALEXNET_ERRORS[name] for name, values in errors.items()}


def mean_corruption_error(errors: Mapping[str, Sequence[float]]) -> float:
    """Compute mCE, the mean CE of all fifteen corruptions. Raises ValueError where one is missing."""
    missing = sorted(ALEXNET_ERRORS.keys() - errors.keys())
    if missing:
        raise ValueError(f"mCE needs all {len(ALEXNET_ERRORS)} corruptions; missing: {', '.join(missing)}")
    return sum(corruption_errors(errors).values()) / len(ALEXNET_ERRORS)
