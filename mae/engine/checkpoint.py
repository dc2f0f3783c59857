"""Checkpoints, written whole or not at all. The last few stay, a damaged one is recognised."""

import contextlib
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae.files import atomic_write

VERSION = 1
_NAME = re.compile(r"step-(\d{9,})\.pt")
_log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint is damaged or does not fit the model that it is read into."""


class Checkpoints:
    """The checkpoints `step-<9 digits>.pt` of one training in one directory.

    A state holds tensors, numbers, strings and containers of them, so that it loads with weights_only=True.
    Under several ranks only rank 0 saves, and every rank must be able to read the directory.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}")
        self.directory = Path(directory)
        self.keep = keep

    def path(self, step: int) -> Path:
        """Return the path of the checkpoint of `step`, which need not exist."""
        return self.directory / f"step-{step:09d}.pt"

    def steps(self) -> list[int]:
        """List the steps that have a file, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(
            int(found[1]) for entry in self.directory.iterdir() if (found := _NAME.fullmatch(entry.name))
        )

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write `state` under `step`, whole or not at all, and keep only it and the `keep` - 1 before it."""
        final = self.path(step)
        try:
            with atomic_write(final) as file:
                torch.save(dict(state), file)
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint {final} cannot be written: {error}. Older ones are untouched"
            ) from error
        # Later ones are broken, or the training would have gone on from them.
        earlier = [other for other in self.steps() if other <= step]
        for other in set(self.steps()) - set(earlier[-self.keep :]):
            self.path(other).unlink(missing_ok=True)
        return final

    def clear(self) -> None:
        """Remove all checkpoints: the training is over and its results are stored."""
        for step in self.steps():
            self.path(step).unlink(missing_ok=True)

    def load(self, step: int) -> dict[str, Any]:
        """Load the state of `step` to the CPU; raise CheckpointError naming the file if it cannot be read."""
        path = self.path(step)
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch.load itself does not compare checksums
            if damaged is not None:
                raise CheckpointError(f"checkpoint {path}: the checksum of {damaged} is wrong")
            state = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"checkpoint {path} is missing: all ranks must see its directory"
            ) from error
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
        if not isinstance(state, dict) or state.get("version") != VERSION:
            found = state.get("version") if isinstance(state, dict) else type(state).__name__
            raise CheckpointError(f"checkpoint {path} has format {found!r}, this code reads {VERSION}")
        return state

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Load (step, state) of the newest readable checkpoint; None without any file.

        An unreadable one is skipped with a warning that names it. Raises CheckpointError if there are files
        and none is readable: starting from scratch would silently discard a training.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return step, self.load(step)
            except CheckpointError as error:
                _log.warning("%s; trying the one before", error)
        if steps:
            raise CheckpointError(
                f"none of the {len(steps)} checkpoints in {self.directory} can be read: "
                "delete them to start from the beginning"
            )
        return None

    def run_id(self) -> str | None:
        """Return the tracking run of the newest checkpoint that can be opened; reads no weights."""
        for step in reversed(self.steps()):
            with contextlib.suppress(OSError, EOFError, RuntimeError, pickle.UnpicklingError):
                state = torch.load(self.path(step), map_location="cpu", weights_only=True, mmap=True)
                return state.get("run_id")
        return None


def load_module(module: nn.Module, state: Mapping[str, Tensor], where: object) -> None:
    """Copy `state` into `module`; CheckpointError naming `where` (a file) and a key that does not fit."""
    own = module.state_dict()
    for key in [*own, *state]:
        if key not in state:
            raise CheckpointError(f"{where}: {key} is missing; the file is of another model")
        if key not in own:
            raise CheckpointError(f"{where}: {key} is unknown to this model; the file is of another one")
        if own[key].shape != state[key].shape:
            raise CheckpointError(
                f"{where}: {key} has shape {tuple(state[key].shape)}, this model's is "
                f"{tuple(own[key].shape)}; the file is of another model: start in an empty directory"
            )
    module.load_state_dict(state)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], where: object) -> None:
    """Copy `state` into `optimizer`; CheckpointError naming `where` if groups or shapes differ."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entry in state["state"].items():
        wanted = parameters[index].shape if index < len(parameters) else None
        for name, value in entry.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != wanted:
                raise CheckpointError(
                    f"{where}: optimizer state {name} of parameter {index} has shape {tuple(value.shape)}, "
                    f"the parameter {wanted and tuple(wanted)}"
                )
    try:
        optimizer.load_state_dict(dict(state))
    except ValueError as error:
        raise CheckpointError(
            f"{where}: the optimizer's groups differ from this training's: {error}"
        ) from error
