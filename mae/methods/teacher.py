"""The teacher of methods that learn from a slow copy of themselves: an exponential moving average."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class Teacher(nn.ModuleDict):
    """Copies of a student's parts under their names. They get no gradient; only `follow` moves them.

    student: has a part "encoder". Weights that are loaded into that encoder alone (`pretrain.init`) are
    copied to the teacher's encoder, so that both start from them.
    """

    def __init__(self, student: Mapping[str, nn.Module]) -> None:
        super().__init__(copy.deepcopy(dict(student)))
        self.requires_grad_(False)
        student["encoder"].register_load_state_dict_post_hook(self._copy_encoder)

    @torch.no_grad()
    def follow(self, student: Mapping[str, nn.Module], share: float) -> None:
        """Move every weight by `share` (1 - momentum) of the way to the student's."""
        for name, part in student.items():
            for slow, fast in zip(self[name].parameters(), part.parameters(), strict=True):
                slow.lerp_(fast, share)

    def _copy_encoder(self, encoder: nn.Module, _: Any) -> None:
        self["encoder"].load_state_dict(encoder.state_dict())
