"""The parent run: one for each `dvc repro`, so that MLflow groups the runs of its stages.

A small file (work/parent.json) names it for all stages. Next to it the outbox names the runs that may hold
something that their server has not.
"""

from __future__ import annotations

import contextlib
import json
import logging
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from mae.files import write_json
from mae.tracking import machine
from mae.tracking.locks import one_at_a_time
from mae.tracking.run_files import RunFiles, RunInfo, now_ms

LOG = logging.getLogger("mae.tracking")
REPRODUCTION_TAG = "reproduction"


def join(file: Path, tags: dict[str, str], reproduction: str | None, new: bool) -> RunInfo:
    """Return the parent run for a stage that starts.

    A new one begins where `file` names none, where it names that of another `reproduction`, or, for stages
    that have no such name in common, with the stage that says `new`.
    """
    with one_at_a_time(file):
        named = _read(file)
        if reproduction is not None:
            new = named is not None and named.tags.get(REPRODUCTION_TAG) != reproduction
            tags = tags | {REPRODUCTION_TAG: reproduction}
        if named is not None and not new:
            return named
        tags = tags | {"stage": "repro", machine.SOURCE_TAG: "dvc repro"}
        begun = RunInfo(uuid.uuid4().hex, "repro", now_ms(), tags)
        write_json(file, asdict(begun))
        LOG.info("a new parent run begins")
        return begun


def _read(file: Path) -> RunInfo | None:
    try:
        return RunInfo(**json.loads(file.read_text()))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None


def outbox(file: Path) -> Iterator[tuple[Path, Path]]:
    """List (entry, run directory) of the runs that may hold something undelivered, oldest first."""
    for entry in sorted(_folder(file).glob("*.json")):
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError, KeyError):
            yield entry, Path(json.loads(entry.read_text())["directory"])


def post(file: Path, files: RunFiles, directory: Path | None = None) -> None:
    """Add a run to the outbox; `directory` is where its files will be."""
    entry = _entry(file, files)
    entry.parent.mkdir(parents=True, exist_ok=True)
    write_json(entry, {"directory": str(directory or files.directory)})


def unpost(file: Path, files: RunFiles) -> None:
    """Take a delivered run out of the outbox."""
    _entry(file, files).unlink(missing_ok=True)


def _folder(file: Path) -> Path:
    return file.with_suffix(".d") / "outbox"


def _entry(file: Path, files: RunFiles) -> Path:
    run = files.identity.run
    return _folder(file) / f"{run.started}-{run.key[:8]}.json"
