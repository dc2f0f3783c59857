"""Training of the dense tasks, detection and segmentation: `fit` on images with a target each."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mae.engine.loop import FitOptions, Fitted, fit
from mae.engine.optim import adamw
from mae.engine.schedule import scaled_lr

Batches = Callable[[int, int], Iterator[Mapping[str, Any]]]
Schedule = Callable[[int, float], float]


@dataclass(frozen=True)
class DenseRecipe:
    """Settings of AdamW; base_lr is per 256 images. The defaults: ViTDet's (arXiv 2203.16527), ViT-B."""

    base_lr: float = 4e-4
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float | None = 0.7


def train_dense(
    model: nn.Module,
    batches: Batches,
    *,
    recipe: DenseRecipe,
    steps: int,
    schedule: Schedule,
    global_batch: int,
    normalize: Callable[[Tensor], Tensor],
    options: FitOptions,
) -> Fitted:
    """Train `model` (a Detector or a Segmenter: forward(images, targets) -> {"loss", parts}) in place.

    batches(start_step, attempt): the loader's {"images": uint8 (n, 3, H, W), "targets": n dicts}, on any
    device, `accumulate` of them per step. schedule(step, peak): the rate of the 0-based step. normalize:
    uint8 images to float, on the device.
    """
    device = torch.device(options.device)
    model.to(device)
    peak = scaled_lr(recipe.base_lr, global_batch)

    def inputs(start: int, attempt: int) -> Iterator[tuple[Tensor, list[dict[str, Any]]]]:
        for batch in batches(start, attempt):
            images = normalize(batch["images"].to(device, non_blocking=True))
            yield images, [_to_device(target, device) for target in batch["targets"]]

    return fit(
        model,
        inputs,
        adamw(
            model,
            lr=peak,
            betas=recipe.betas,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
        ),
        steps=steps,
        learning_rate=lambda step: schedule(step, peak),
        options=options,
    )


def _to_device(target: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in target.items()
    }
