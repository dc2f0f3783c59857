"""Augmentation of one decoded image: callables from uint8 (3, H, W) to uint8 (3, h, w).

They draw from the global generators of torch, random and numpy, which the loader seeds for every sample, and
can be sent to worker processes. Everything stays uint8 until `Normalize`, which runs on the device.
Sizes are an int (a square side) or (height, width), in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

Size = int | Sequence[int]
Transform = Callable[[torch.Tensor], torch.Tensor]

_BICUBIC = InterpolationMode.BICUBIC
_SQUAREST = (3 / 4, 4 / 3)
# Resizing a whole sliver would take gigabytes; beyond this aspect its ends are never in the crop.
_MAX_ASPECT = 16


def pretraining(
    size: Size,
    *,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = _SQUAREST,
    flip: bool = True,
    crop: str = "random",
    jitter: tuple[float, float, float, float] | None = None,
) -> Transform:
    """Build MAE's pretraining augmentation (paper, section 4.1 and Table 1e).

    crop: "random" (random resized crop, the default), "fixed" (a crop of the final size from the image
    resized to 256/224 of it) or "centre" (with flip=False the table's "none"). scale, ratio: area fraction
    and aspect of the random crop. jitter: brightness, contrast, saturation, hue strengths, or None.
    """
    height_width = _pair(size)
    if crop == "random":
        first: Transform = _RandomCrop(height_width, scale, ratio, flip=flip)
    elif crop == "fixed":
        first = _Sequence([_Cover(height_width, 224 / 256), v2.RandomCrop(height_width), *_flip(flip)])
    elif crop == "centre":
        first = _Sequence([evaluation(size), *_flip(flip)])
    else:
        raise ValueError(f"crop is {crop!r}: expected random, fixed or centre")
    if jitter is None:
        return first
    brightness, contrast, saturation, hue = jitter
    return _Sequence([first, v2.ColorJitter(brightness, contrast, saturation, hue)])


def byol_crop(size: Size, *, flip: bool = True) -> Transform:
    """Build the linear probe's crop, BYOL's: area 8-100 %, drawn once, sides clamped to the image's; and
    flip.

    torchvision draws again where this clamps, so crops are larger here: mean area .526 of a square image.
    """
    return _RandomCrop(_pair(size), (0.08, 1.0), _SQUAREST, flip=flip, sampler=_ClampedCrop)


def finetuning(
    size: Size,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = _SQUAREST,
    flip: bool = True,
    rand_augment: str | None = "rand-m9-mstd0.5-inc1",
    mean: Sequence[float],
) -> Transform:
    """Build random resized crop, flip, and timm's RandAugment by its configuration string (None for none).

    mean: colour (0 to 1) that fills the borders that RandAugment moves into view. Random erasing, mixup and
    cutmix work on whole batches, on the device, and are not part of this.
    """
    height_width = _pair(size)
    crop = _RandomCrop(height_width, scale, ratio, flip=flip)
    if rand_augment is None:
        return crop
    return _Sequence([crop, RandAugment(rand_augment, min(height_width), mean)])


def evaluation(size: Size, *, crop_pct: float | None = None) -> Transform:
    """Build the centre crop of the image resized (bicubic) to cover size / crop_pct.

    crop_pct: `default_crop_pct` by default.
    """
    height_width = _pair(size)
    if crop_pct is None:
        crop_pct = default_crop_pct(size)
    if not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct is {crop_pct}: it must be above 0 and at most 1")
    return _Sequence([_Cover(height_width, crop_pct), v2.CenterCrop(height_width)])


def default_crop_pct(size: Size) -> float:
    """Return the share of the resized image that is kept: 224/256 up to 224 pixels and 1.0 above, as in MAE's
    evaluation."""
    return 224 / 256 if max(_pair(size)) <= 224 else 1.0


class RandAugment:
    """timm's RandAugment on a uint8 tensor, by way of PIL. The first call imports timm."""

    needs = ("timm.data.auto_augment",)  # heavy modules, which the loader's fork server imports once

    def __init__(self, config: str, size: int, mean: Sequence[float]) -> None:
        self.config, self.size, self.mean = config, size, tuple(mean)
        self._augment: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_augment": None}

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        if self._augment is None:
            from PIL import Image
            from timm.data.auto_augment import posterize, rand_augment_transform

            settings = {
                "translate_const": int(self.size * 0.45),
                "img_mean": tuple(min(255, round(255 * value)) for value in self.mean),
                "interpolation": Image.Resampling.BICUBIC,
            }
            self._augment = rand_augment_transform(self.config, settings)
            for op in self._augment.ops:
                if op.aug_fn is posterize:
                    op.aug_fn = _posterize
        return functional.pil_to_tensor(self._augment(functional.to_pil_image(image)))


def _posterize(image: Any, bits: int, **_: Any) -> Any:
    """Keep the highest bits. At full strength timm asks for 0: black, but Pillow 13 refuses it."""
    from PIL import Image, ImageOps

    return ImageOps.posterize(image, min(bits, 8)) if bits > 0 else Image.new(image.mode, image.size)


class Normalize(nn.Module):
    """Normalization of uint8 images (N, C, H, W) to (value / 255 - mean) / std in float32, on their
    device."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if not all(0 <= value <= 1 for value in mean) or not all(0 < value <= 1 for value in std):
            raise ValueError(
                f"mean {list(mean)} and std {list(std)} of colours: expected both in 0..1, std above 0; "
                "divide numbers of 0 to 255 by 255"
            )
        mean_, std_ = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        # One multiply-add an image: x / (255 std) - mean / std.
        self.register_buffer("scale", (1 / (255 * std_)).float().view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", (mean_ / std_).float().view(-1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() * self.scale - self.shift

    def undo(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalized images back to uint8, rounded and clamped to 0-255."""
        return ((images.float() + self.shift) / self.scale).round().clamp(0, 255).to(torch.uint8)


class _RandomCrop:
    """A random part of the image resized to (height, width), mirrored half the time."""

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float],
        ratio: tuple[float, float],
        *,
        flip: bool,
        sampler: type[v2.RandomResizedCrop] = v2.RandomResizedCrop,
    ) -> None:
        if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"scale {scale} and ratio {ratio}: expected (low, high), scale within (0, 1]")
        self.size, self.flip = list(size), flip
        self.sampler = sampler(size, scale=tuple(scale), ratio=tuple(ratio))

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        # v2 draws the crop, torch resizes it: v2's own resizing would add .15 ms an image for dispatch and a
        # slow copy of the part.
        at = self.sampler.make_params([image])
        bottom, right = at["top"] + at["height"], at["left"] + at["width"]
        part = image[None, :, at["top"] : bottom, at["left"] : right]
        image = interpolate(part, self.size, mode="bicubic", align_corners=False, antialias=True)[0]
        return image.flip(-1) if self.flip and torch.rand(()).item() < 0.5 else image


class _ClampedCrop(v2.RandomResizedCrop):
    """A crop from one draw; a side that does not fit becomes the image's."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = flat_inputs[0].shape[-2:]
        draws = torch.rand(4, dtype=torch.float64).tolist()
        area = height * width * (self.scale[0] + draws[0] * (self.scale[1] - self.scale[0]))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        aspect = math.exp(low + draws[1] * (high - low))
        crop_width = max(1, min(width, round(math.sqrt(area * aspect))))
        crop_height = max(1, min(height, round(math.sqrt(area / aspect))))
        return {
            "top": int(draws[2] * (height - crop_height + 1)),
            "left": int(draws[3] * (width - crop_width + 1)),
            "height": crop_height,
            "width": crop_width,
        }


class _Cover:
    """A resize, with the aspect kept, to the smallest size that covers (height, width) / crop_pct."""

    def __init__(self, size: tuple[int, int], crop_pct: float) -> None:
        self.size = [int(side / crop_pct) for side in size]

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        longest = _MAX_ASPECT * min(height, width) * max(self.size) // min(self.size)
        if max(height, width) > longest:
            height, width = min(height, longest), min(width, longest)
            image = functional.center_crop(image, [height, width])
        if height * self.size[1] <= width * self.size[0]:
            target = [self.size[0], int(self.size[0] * width / height)]
        else:
            target = [int(self.size[1] * height / width), self.size[1]]
        return functional.resize(image, target, _BICUBIC, antialias=True)


class _Sequence:
    """Transforms in sequence."""

    def __init__(self, steps: Sequence[Transform]) -> None:
        self.steps = tuple(steps)

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(name for step in self.steps for name in getattr(step, "needs", ()))

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            image = step(image)
        return image


def _flip(wanted: bool) -> list[Transform]:
    return [v2.RandomHorizontalFlip()] if wanted else []


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size {size}: sides must be at least 1")
    return int(height), int(width)
