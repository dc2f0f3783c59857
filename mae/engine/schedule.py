"""Learning-rate schedules, as functions of the step."""

import math
from collections.abc import Sequence


def scaled_lr(base_lr: float, global_batch: int) -> float:
    """base_lr * global_batch / 256, where global_batch counts all devices and accumulation (MAE, A.1)."""
    return base_lr * global_batch / 256


def warmup_cosine(step: float, *, peak: float, floor: float = 0.0, warmup: int = 0, total: int) -> float:
    """Learning rate of the 0-based `step`: linear from 0 over `warmup` steps, then half a cosine to `floor`.

    All in steps; `floor` is reached at `total` and stays. Equals timm's CosineLRScheduler(
    t_initial=total - warmup, warmup_t=warmup, warmup_lr_init=0, lr_min=floor, warmup_prefix=True).
    Raises ValueError if the warm-up does not end before `total`.
    """
    _ends_before(warmup, total)
    if step < warmup:
        return peak * step / warmup
    progress = min(1.0, (step - warmup) / (total - warmup))
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * progress))


def warmup_linear(step: float, *, peak: float, floor: float = 0.0, warmup: int = 0, total: int) -> float:
    """Learning rate of the 0-based `step`: linear from 0 over `warmup` steps, then linearly to `floor`.

    All in steps; `floor` is reached at `total` and stays (UperNet's schedule on ADE20K). Raises
    ValueError if the warm-up does not end before `total`.
    """
    _ends_before(warmup, total)
    if step < warmup:
        return peak * step / warmup
    return floor + (peak - floor) * (1 - min(1.0, (step - warmup) / (total - warmup)))


def warmup_multistep(
    step: float, *, peak: float, milestones: Sequence[int], gamma: float = 0.1, warmup: int = 0
) -> float:
    """Learning rate of the 0-based `step`: linear from 0 over `warmup` steps, then times `gamma` from each
    milestone (a step) on (ViTDet's schedule, arXiv 2203.16527)."""
    if step < warmup:
        return peak * step / warmup
    return peak * gamma ** sum(step >= milestone for milestone in milestones)


def _ends_before(warmup: int, total: int) -> None:
    if not 0 <= warmup < total:
        raise ValueError(f"the warm-up ({warmup} steps) must end before the schedule does ({total} steps)")
