"""The bench on which cases run: tiny params, stages run in a folder, and what they leave as plain values."""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from matplotlib.figure import Figure
from stages.tiny import write_tiny_params

from mae import config
from mae.config import recipe
from mae.stages import run_stage

# What no two runs have in common.
TIMING = ("images_per_second", "peak_memory", "seconds", "attempts")


@dataclass(frozen=True)
class Bench:
    """A folder for one case.

    store: gives an empty MLflow store; it takes seconds to make. shared: holds the folders that several cases
    begin from, made once.
    """

    folder: Path
    project: Path
    store: Callable[[], Path]
    shared: Path

    def begin(self, *settings: str) -> None:
        """Write the tiny params.yaml, with these settings over it, into the folder."""
        write_tiny_params(self.folder, self.project, self.store(), "runtime.log_every=1", *settings)

    def begin_from(self, base: str, *settings: str) -> None:
        """Begin from a folder in which the stages of BASES[base] ran, with these settings over its own."""
        finished = self.shared / base
        if not finished.is_dir():
            before, stages, own = BASES[base]
            maker = replace(self, folder=self.shared / f".{base}")
            maker.folder.mkdir()
            maker.begin_from(before, *own) if before else maker.begin(*own)
            maker.run(*stages)
            maker.folder.rename(finished)
        shutil.copytree(finished, self.folder, dirs_exist_ok=True)
        if settings:
            self.set(*settings)

    def set(self, *settings: str) -> None:
        """Change params.yaml."""
        recipe.apply(None, list(settings), self.folder / "params.yaml")

    def run(self, *stages: str) -> None:
        """Run stages in the folder, on one thread. Pictures are left empty: letters differ by machine."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.delenv("MLFLOW_TRACKING_URI", raising=False)
            patch.setenv("OMP_NUM_THREADS", "1")
            patch.setattr(Figure, "savefig", lambda _, path, **__: Path(path).write_bytes(b""))
            params = config.load()
            for stage in stages:
                run_stage(stage, params)

    def json(self, path: str) -> Any:
        """A JSON file of the folder."""
        return json.loads((self.folder / path).read_text())

    def metrics(self, stage: str, *names: str) -> dict[str, Any]:
        """The stage's final numbers, without those of timing; only `names`, where some are given."""
        found = self.json(f"reports/{stage}/metrics.json")
        return {
            name: value
            for name, value in found.items()
            if isinstance(value, int | float | list)
            and not isinstance(value, bool)
            and not name.endswith(TIMING)
            and (not names or name in names)
        }

    def column(self, file: str, name: str) -> list[float]:
        """A column of numbers of a CSV, empty cells left out; [] where the file has no such column."""
        with (self.folder / file).open() as opened:
            return [float(row[name]) for row in csv.DictReader(opened) if row.get(name)]

    def lengths(self, file: str) -> dict[str, float]:
        """Lengths of the weights of a safetensors file, together by the last part of their names.

        Biases and tokens begin at zero or nearly so: their lengths say what the training did.
        """
        squares: dict[str, float] = {}
        for name, value in safetensors.torch.load_file(self.folder / file).items():
            kind = name.rpartition(".")[2]
            squares[kind] = squares.get(kind, 0.0) + float(value.double().square().sum())
        stem = Path(file).stem
        return {f"{stem}.{kind}": total**0.5 for kind, total in squares.items()}


# Folders that cases begin from: (the one before, its stages, its settings).
BASES: dict[str, tuple[str | None, tuple[str, ...], tuple[str, ...]]] = {
    "sharded": (None, ("ingest", "shard"), ()),
    "pretrained": ("sharded", ("pretrain",), ()),
    "dense": (
        "pretrained",
        ("ingest_detect", "shard_detect", "ingest_segment", "shard_segment"),
        ("demo.detect.rows=1",),  # digits so large that a detector of four steps finds some
    ),
}


def digest(value: Any) -> str:
    """16 hexadecimal digits that stand for bytes, text, an array or a value of JSON."""
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        value = str(value.dtype).encode() + str(value.shape).encode() + np.ascontiguousarray(value).tobytes()
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(value).hexdigest()[:16]


def sums(values: torch.Tensor | np.ndarray | Iterable[float]) -> list[float]:
    """Mean and root mean square of an array, and its mean under weights that rise along it.

    The last one notices values that changed places.
    """
    flat = torch.as_tensor(np.asarray(values)).double().flatten()
    ramp = torch.linspace(-1, 1, len(flat), dtype=torch.float64)
    return [float(flat.mean()), float(flat.square().mean().sqrt()), float((flat * ramp).mean())]
