"""Checkpoints, written whole or not at all. The last few stay, a damaged one is recognised."""

import contextlib
import errno
import hashlib
import logging
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor, nn

from mae.files import atomic_write

VERSION = 1
_NAME = re.compile(r"step-(\d{9,})\.pt")
_TENSOR = re.compile(r"/data/\d+$")  # a member of torch's zip that holds the numbers of one tensor
_DIGEST = b"sha256:"  # and 64 hexadecimal digits end a file; files of releases before it end with the zip
_log = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read or written, or does not fit the model that it is read into."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint file whose bytes are not those that were written."""


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
                hashed = _HashedFile(file)
                torch.save(dict(state), cast(IO[bytes], hashed))
                file.write(_DIGEST + hashed.sha256.hexdigest().encode())  # readers of zip files skip it
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
        """Load the state of `step` to the CPU, all its checksums compared.

        Raises: DamagedCheckpoint; CheckpointError where the file is missing or cannot be read for a reason
        that is not its own, such as a permission.
        """
        path = self.path(step)
        state = _read(path)
        if not isinstance(state, dict) or state.get("version") != VERSION:
            found = state.get("version") if isinstance(state, dict) else type(state).__name__
            raise CheckpointError(f"checkpoint {path} has format {found!r}, this code reads {VERSION}")
        return state

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Load (step, state) of the newest checkpoint that is not damaged; None without any file.

        A damaged one is skipped with a warning that names it. Raises CheckpointError if all are damaged:
        starting from scratch would silently discard a training.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return step, self.load(step)
            except DamagedCheckpoint as error:
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
            with contextlib.suppress(DamagedCheckpoint):
                run_id: str | None = _read(self.path(step), weights=False)["run_id"]
                return run_id
        return None


class _HashedFile:
    """A file to write, hashed on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _read(path: Path, *, weights: bool = True) -> Any:
    """Read a checkpoint file; the one place that tells a damaged file from a disk that cannot be read.

    weights: False compares no checksum of a tensor, and maps them unread.
    """
    try:
        _compare_checksums(path, weights)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=not weights)
        return state if weights else {"run_id": state.get("run_id")}
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {path} is missing: all ranks must see its directory") from error
    except Exception as error:
        # Random bytes raise nearly every class of error. Those of the system have a number, and of these only
        # EINVAL, for a place before the start of the file, comes from its bytes.
        system = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        if system or isinstance(error, MemoryError):
            raise CheckpointError(
                f"checkpoint {path} cannot be read: {error}; the file itself may be whole: put that right "
                "and run again"
            ) from error
        raise DamagedCheckpoint(
            f"checkpoint {path} cannot be read: it is damaged ({type(error).__name__}: {error})"
        ) from error


def _compare_checksums(path: Path, weights: bool) -> None:
    """Compare the digest at the end of the file; where it has none, or is read in part, those of the zip.

    torch.load itself compares nothing. The zip's own checksums leave out its table of contents.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END) - len(_DIGEST) - 64
        file.seek(max(0, end))
        name, _, digest = file.read().partition(b":")
        if weights and name + b":" == _DIGEST:
            file.seek(0)
            sha256 = hashlib.sha256()
            while end > 0 and (block := file.read(min(end, 1 << 20))):
                sha256.update(block)
                end -= len(block)
            if sha256.hexdigest().encode() != digest:
                raise zipfile.BadZipFile("its digest differs")
            return
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if weights or not _TENSOR.search(member.filename):
                with archive.open(member) as part:
                    while part.read(1 << 20):  # raises BadZipFile at the end where the checksum differs
                        pass


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
