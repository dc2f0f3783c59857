"""The optimizers of the recipes.

A parameter group may carry `lr_scale`; the loop sets `lr = learning_rate(step) * lr_scale` before each step.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


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
