"""Stages as processes that SIGKILL ends: at a random moment, or before a random change to a file."""

import contextlib
import csv
import os
import random
import resource
import shutil
import signal
import sqlite3
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from engine.processes import PRELOADED, context
from ruamel.yaml import YAML
from stages.tiny import OURS_TO_SET

from mae.files import read_json

HEAVY = ["mae.__main__", "mae.stages", "mae.engine.loop", "mlflow", "timm", "webdataset", "matplotlib.pyplot"]
CHANGES = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate"}
# Figures that differ between two unbroken runs.
TIMED = ("images_per_second", "peak_memory", "seconds")
SECONDS = 900  # after them an attempt hangs
IN_A_ROW = 4


@dataclass
class Row:
    """One row of the table: the kills of one kind, and what they left."""

    name: str
    tried: int = 0
    came_back: int = 0
    ended: int = 0
    identical: int = 0
    lost_or_doubled: int = 0
    left: set[str] = field(default_factory=set)
    bytes_are_promised: bool = True

    def cells(self) -> list[str]:
        same = f"{self.identical} of {self.ended}" if self.bytes_are_promised else "not promised"
        came = f"{self.came_back} of {self.ended}"
        return [self.name, str(self.tried), came, same, str(self.lost_or_doubled), str(len(self.left))]

    def check(self) -> None:
        """Fail where a kill did harm."""
        assert self.came_back == self.ended
        assert self.identical == self.ended or not self.bytes_are_promised
        assert not self.lost_or_doubled
        assert not self.left


@dataclass(frozen=True)
class End:
    """The end of an attempt: its exit code, what it took, the changes to files that its process made."""

    code: int
    seconds: float
    changes: int

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


def attempt(
    folder: Path,
    *command: str,
    after: float | None = None,
    change: int | None = None,
    alone: bool = True,
    open_files: int | None = None,
    user: int | None = None,
) -> End:
    """Run `mae COMMAND` in a folder; kill it `after` seconds, or before its `change`-th change to a file.

    alone: its children are not killed with it. open_files: the most that it may hold (`ulimit -n`). user: the
    id to run as. Its output is in `attempt.log` beside the folder.
    """
    here, there = context_of_stages().Pipe(duplex=False)
    limits = (open_files, user)
    process = context_of_stages().Process(target=_child, args=(folder, command, change, alone, limits, there))
    started = time.monotonic()
    process.start()
    there.close()
    process.join(SECONDS if after is None else after)
    if process.exitcode is None:
        assert after is not None, f"{command} hangs: {log_of(folder)}"
        os.kill(process.pid, signal.SIGKILL) if alone else _kill_group(process.pid)
        process.join()
    changes = 0
    with contextlib.suppress(EOFError):  # killed, or ended before it began
        changes = here.recv() if here.poll() else 0
    return End(process.exitcode, time.monotonic() - started, changes)


def context_of_stages() -> Any:
    """Return the fork server whose children have all that a stage imports."""
    started = context()
    started.set_forkserver_preload([*PRELOADED, *HEAVY])
    return started


def log_of(folder: Path) -> str:
    return (folder.parent / "attempt.log").read_text()


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # before it has a group of its own
        os.kill(pid, signal.SIGKILL)


def _child(
    folder: Path,
    command: tuple[str, ...],
    change: int | None,
    alone: bool,
    limits: tuple[int | None, int | None],
    there: Connection,
) -> None:
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    os.chdir(folder)
    for name in OURS_TO_SET:
        os.environ.pop(name, None)
    log = os.open(folder.parent / "attempt.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    open_files, user = limits
    if open_files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
    if user is not None:
        os.setuid(user)
    seen = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
        if event in CHANGES or flags & (os.O_WRONLY | os.O_RDWR):
            seen += 1
            if seen == change:
                os.kill(os.getpid(), signal.SIGKILL) if alone else os.killpg(0, signal.SIGKILL)

    sys.addaudithook(count)
    from mae.__main__ import main

    code = main(list(command))
    sys.stderr.flush()
    there.send(seen)
    sys.exit(code)


def wait_until_nothing_runs_in(folder: Path) -> None:
    """Loaders whose stage was killed must end by themselves."""
    deadline = time.monotonic() + 60
    while left := [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(folder)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def killed_until_it_ends(folder: Path, stage: str, unbroken: End, draw: random.Random) -> int:
    """Kill a stage at random, up to IN_A_ROW times; let it end; return the number of kills."""
    for kills in range(IN_A_ROW + 1):
        at: dict[str, Any] = {"after": draw.uniform(0, unbroken.seconds)}
        if kills == IN_A_ROW:
            at = {}  # a stage without checkpoints ends only where it is let
        elif draw.random() < 0.5:
            at = {"change": draw.randint(1, max(1, unbroken.changes))}
        end = attempt(folder, stage, **at, alone=draw.random() < 0.5)
        if not end.killed:
            assert end.code == 0, log_of(folder)
            # A stage gives a slow store seconds; the rest waits for the next one, or for this.
            assert attempt(folder, "sync").code == 0, log_of(folder)
            return kills
        wait_until_nothing_runs_in(folder)
    raise AssertionError(f"{stage} was killed by another: {log_of(folder)}")


def outputs(folder: Path, stage: str) -> list[str]:
    """Name what dvc.yaml says that a stage writes."""
    row = YAML(typ="safe").load(folder / "dvc.yaml")["stages"][stage]
    listed = [*row.get("outs", ()), *row.get("metrics", ()), *row.get("plots", ())]
    return [next(iter(one)) if isinstance(one, dict) else one for one in listed]


def remove(folder: Path, stage: str) -> None:
    """Remove what a stage wrote, as DVC does before it runs it, and what it would go on from."""
    for path in [folder / f"work/{stage}", *(folder / name for name in outputs(folder, stage))]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def results(folder: Path, stage: str) -> dict[str, object]:
    """Return the bytes of all that a stage computes, and its figures."""
    found: dict[str, object] = {}
    for name in outputs(folder, stage):
        for path in _files(folder / name):
            if path.name == "metrics.json":
                figures = read_json(path) or {}
                found[str(path)] = without_times(figures)
            elif path.suffix == ".csv":
                with path.open(newline="") as file:
                    found[str(path)] = [without_times(row) for row in csv.DictReader(file)]
            elif path.name not in ("run.json", "decision.json"):  # ids and times
                found[str(path.relative_to(folder))] = path.read_bytes()
    return {name.replace(str(folder), ""): value for name, value in found.items()}


def without_times(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if not name.endswith(TIMED)}


def counted(folder: Path, stage: str) -> Counter[Any]:
    """Count what a stage may lose or double: samples in shards; values, models and versions in MLflow.

    The load of the machine is sampled by the clock, so it is not counted.
    """
    if "shard" in stage:
        names: Counter[Any] = Counter()
        for tar in sorted((folder / outputs(folder, stage)[0]).rglob("*.tar")):
            with tarfile.open(tar) as opened:
                names.update(opened.getnames())
        return names
    with sqlite3.connect(folder / "mlflow.db") as store:
        values = store.execute(
            "select m.key, m.step from metrics m join runs r using (run_uuid) "
            "where m.key not like 'system/%' and r.name = ? and r.status = 'FINISHED' and r.start_time = "
            "(select max(start_time) from runs where name = ? and status = 'FINISHED')",
            (stage, stage),
        ).fetchall()
        models = store.execute("select name, version from model_versions").fetchall()
    return Counter(values) + Counter(models if stage == "register" else ())


def difference(one: Counter[Any], other: Counter[Any]) -> int:
    return sum(((one - other) + (other - one)).values())


def files(folder: Path) -> set[str]:
    """Name all files but those of one run: the artifacts and the journal of MLflow, the cache of DVC."""
    names = [str(path.relative_to(folder)) for path in _files(folder)]
    own = ("mlruns/", "mlartifacts/", "mlflow.db-", ".dvc/cache/")
    return {name for name in names if not name.startswith(own)}


def _files(path: Path) -> Iterable[Path]:
    if path.is_file():
        return [path]
    return sorted(one for one in path.rglob("*") if one.is_file())
