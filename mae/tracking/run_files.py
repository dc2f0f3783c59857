"""A run's files: they hold everything that it logs, so that no server is needed to go on.

`metrics.jsonl` only grows: a line for each logged step (reports read them), and one for each event between
them: start, params, tags, data set, artifact, end. `sent.json` says how much of it the server has.
Nothing here imports MLflow or opens a connection.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mae.files import full_disk_named, write_json

METRICS, CURSOR, COPIES = "metrics.jsonl", "sent.json", "artifacts"
OFFLINE = "offline-"


@dataclass(frozen=True)
class RunInfo:
    """A run as the server creates it. `key` finds it there again, though the answer with its id was lost."""

    key: str
    name: str
    started: int  # ms since 1970
    tags: dict[str, str]


@dataclass(frozen=True)
class Identity:
    """A run, its parent, and the store that they are for."""

    uri: str
    experiment: str
    run: RunInfo
    parent: RunInfo | None = None
    parent_file: str | None = None

    @classmethod
    def read(cls, found: dict[str, Any]) -> Identity:
        """Build an identity from what `dataclasses.asdict` made of one."""
        parent = RunInfo(**found["parent"]) if found["parent"] else None
        return cls(**found | {"run": RunInfo(**found["run"]), "parent": parent})


@dataclass(frozen=True)
class Cursor:
    """The part of a run that the server has: its id there, and the acknowledged bytes of `metrics.jsonl`."""

    run_id: str | None = None
    sent: int = 0


@dataclass
class RunFiles:
    """The files of one run, in a directory of its own. One process at a time works on them (`locks.hold`)."""

    directory: Path
    identity: Identity
    cursor: Cursor
    running: bool  # it has no end line
    logged: dict[int, dict[str, Any]]  # by step

    @classmethod
    def open(cls, directory: Path) -> RunFiles | None:
        """Open the run in `directory`; None where there is none."""
        identity, running, logged = None, False, dict[int, dict[str, Any]]()
        for _, line in _lines(directory / METRICS):
            if "op" not in line:
                logged.setdefault(line["step"], {}).update(line)
            elif line["op"] in ("start", "end"):
                running = line["op"] == "start"
                identity = Identity.read(line["identity"]) if running else identity
        if identity is None:
            return None
        try:
            cursor = Cursor(**json.loads((directory / CURSOR).read_text()))
        except (FileNotFoundError, json.JSONDecodeError):
            cursor = Cursor()  # what is sent again is stored once
        return cls(directory, identity, cursor, running, logged)

    @classmethod
    def start(cls, directory: Path, identity: Identity, cursor: Cursor | None = None) -> RunFiles:
        """Start a run in place of the one there; or, given its `cursor`, go on with its lines."""
        directory.mkdir(parents=True, exist_ok=True)
        if cursor is None:
            (directory / METRICS).unlink(missing_ok=True)
            shutil.rmtree(directory / COPIES, ignore_errors=True)
        write_json(directory / CURSOR, asdict(cursor or Cursor()))
        _append(directory / METRICS, {"op": "start", "identity": asdict(identity)})
        files = cls.open(directory)
        if files is None:
            raise OSError(f"{directory / METRICS}: the line just written cannot be read back")
        return files

    @property
    def metrics(self) -> Path:
        return self.directory / METRICS

    @property
    def copies(self) -> Path:
        return self.directory / COPIES

    @property
    def id(self) -> str:
        """MLflow's run id, or a local one while no server was reached."""
        return self.cursor.run_id or OFFLINE + self.identity.run.key

    def known_as(self, run_id: str) -> bool:
        return run_id in (self.cursor.run_id, OFFLINE + self.identity.run.key)

    def save(self, cursor: Cursor) -> None:
        """Note what the server has acknowledged."""
        self.cursor = cursor
        write_json(self.directory / CURSOR, asdict(cursor))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Add a line, without values that the run had at this step before it was resumed.

        MLflow cannot replace a value, and some that a resumed run repeats differ, such as images per second.
        """
        before = self.logged.get(int(step), {})
        numbers = {key: _number(value) for key, value in values.items()}
        new = {key: value for key, value in numbers.items() if key not in before}
        if new:
            _append(self.metrics, {"step": int(step), "time": round(time.time(), 3)} | new)

    def event(self, op: str, **values: Any) -> None:
        """Add one message for the server; messages reach it in this order."""
        _append(self.metrics, {"op": op, **values})

    def artifact(self, source: Path, folder: str) -> None:
        """Add an artifact as it is now: a copy waits to be sent, as the caller may overwrite the file."""
        number = self.metrics.stat().st_size  # where the event's line begins
        target = self.copies / str(number)
        shutil.rmtree(target, ignore_errors=True)  # of a process that was killed before it wrote its line
        with full_disk_named(target):
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                target.mkdir(parents=True)
                shutil.copyfile(source, target / source.name)
        self.event("artifact", copy=number, name=source.name, folder=folder)

    def unsent(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (offset after the line, line) of every line that the server has not acknowledged."""
        return _lines(self.metrics, self.cursor.sent)

    def has_backlog(self) -> bool:
        return self.running or self.cursor.run_id is None or next(self.unsent(), None) is not None


def history(metrics: Path) -> dict[str, list[tuple[int, float]]]:
    """Read `metrics.jsonl` as key -> [(step, value), ...], in the order logged; {} where it is missing.

    A step that was logged again, by a run that resumed, has its last value.
    """
    curves: dict[str, dict[int, float]] = {}
    for _, line in _lines(metrics):
        for key, value in () if "op" in line else line.items():
            if key not in ("step", "time"):
                curves.setdefault(key, {})[line["step"]] = float(value)
    return {key: list(curve.items()) for key, curve in curves.items()}


def now_ms() -> int:
    return int(time.time() * 1000)


def _append(path: Path, value: dict[str, Any]) -> None:
    """Add one line. It reaches the file at once: a killed process loses none of its lines."""
    line = (json.dumps(value, allow_nan=False) + "\n").encode()
    with full_disk_named(path), path.open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line  # after one that a kill cut short
        file.write(line)


def _lines(path: Path, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (offset after it, value) of each line from byte `start` on; a line cut by a kill is skipped."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        for raw in file:
            start += len(raw)
            if raw.endswith(b"\n"):
                with contextlib.suppress(json.JSONDecodeError):
                    yield start, json.loads(raw)


def _number(value: Any) -> float | str:
    number = float(value)
    return number if math.isfinite(number) else str(number)  # JSON has no NaN; float("nan") reads it back
