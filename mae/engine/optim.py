"""Optimizers of the recipes, and learning-rate schedules as functions of the step.

A parameter group may carry `lr_scale`; the loop sets `lr = learning_rate(step) * lr_scale` before each step.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn


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


def adamw(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.05,
    layer_decay: float | None = None,
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, fused on CUDA.

    Tensors of at most one axis are not decayed, nor is what `model.no_weight_decay()` names where the model
    has that method (MAE pretraining has none: class and mask token are decayed there).
    With `layer_decay`, parameters of layer i get `lr_scale = layer_decay ** (depth + 1 - i)` by the model's
    `group_matcher` (BEiT, arXiv 2106.08254; timm's param_groups_layer_decay).
    """
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    named = getattr(model, "no_weight_decay", None)
    exempt = sorted(named()) if named is not None else ()
    if layer_decay is None:
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=exempt)
    elif hasattr(model, "group_matcher"):
        groups = param_groups_layer_decay(
            model, weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay
        )
    else:
        raise ValueError(f"layer_decay needs {type(model).__name__}.group_matcher to know the layers")
    _require_parameters(groups)
    on_cuda = all(parameter.is_cuda for group in groups for parameter in group["params"])
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True if on_cuda else None)


def lars(model: nn.Module, *, lr: float, momentum: float = 0.9, trust: float = 1e-3) -> torch.optim.Optimizer:
    """LARS without weight decay (arXiv 1708.03888): tensors of one axis take plain momentum steps.

    Weights: g' = g * trust * |w| / |g|, buffer = momentum * buffer + g', w -= lr * buffer.
    """
    from timm.optim import Lars

    matrices, vectors = _by_axes(model)
    groups = [{"params": matrices, "always_adapt": True}, {"params": vectors, "always_adapt": False}]
    groups = [group for group in groups if group["params"]]
    _require_parameters(groups)
    return Lars(groups, lr=lr, momentum=momentum, weight_decay=0.0, trust_coeff=trust, eps=0.0)


def sgd(
    model: nn.Module, *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum; tensors of one axis are not decayed."""
    matrices, vectors = _by_axes(model)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    _require_parameters(groups)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)


def _by_axes(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p for p in trainable if p.ndim > 1], [p for p in trainable if p.ndim <= 1]


def _require_parameters(groups: Iterable[dict[str, Any]]) -> None:
    if not any(group["params"] for group in groups):
        raise ValueError("nothing to train: no parameter of the model has requires_grad")
