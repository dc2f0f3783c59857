"""Pretraining methods by name: one paper, one file. `method.Method` is the contract."""

from mae.methods.mae import MAE
from mae.methods.method import Method

METHODS: dict[str, type[Method]] = {"mae": MAE}

__all__ = ["METHODS", "Method"]
