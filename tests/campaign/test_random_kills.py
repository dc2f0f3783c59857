"""Stages and trainings that SIGKILL hits at random moments, again and again, leave what unbroken ones leave.

Minutes of work: only `make campaign` runs them; `--kills` says how many kills each stage gets. One deliberate
kill of each kind stays in the suite (tests/stages/test_kill.py, tests/engine/test_resume.py and others).
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import torch
from engine import toy
from engine.processes import context
from stages.tiny import OURS_TO_SET, run, write_tiny_params

from mae.files import read_json

pytestmark = pytest.mark.campaign

# The folders that a stage writes, and how long its training is: long enough to be hit in all its parts.
STAGES = {
    "shard": ("data/shards",),
    "tokenizer": ("models/tokenizer",),
    "pretrain": ("models/pretrain",),
    "finetune": ("models/finetune",),
    "detect": ("models/detect",),
    "segment": ("models/segment",),
}
LONGER = [
    "runtime.workers=1",
    "runtime.checkpoint_every=5",
    "demo={train: 120, val: 30, size: 64}",
    "shard.max_count=4",
    "tokenizer={kind: fsq, levels: [5, 5], width: 8, depth: 1, epochs: 20, batch_size: 20, warmup_epochs: 1}",
    "pretrain.epochs=20",
    "finetune.epochs=20",
    "detect={steps: 30, milestones: [20]}",
    "segment.steps=60",
]
# The command `mae`, which says when its packages are imported: a kill before that would hit nothing of ours.
COMMAND = """
import sys
import mlflow, timm, torch, mae.engine.loop
from mae.__main__ import main
print("begins", flush=True)
sys.exit(main(sys.argv[1:]))
"""
# Figures that differ between two unbroken runs.
TIMED = ("images_per_second", "peak_memory", "seconds")


@dataclass
class Tally:
    """Results of one stage's kills."""

    kills: int = 0
    ended: int = 0
    identical: int = 0
    left: set[str] = field(default_factory=set)

    def row(self, name: str) -> str:
        return f"{name:<12}{self.kills:>6}{self.ended:>7}{self.identical:>11}{len(self.left):>12}"


@pytest.fixture(scope="session")
def kills(pytestconfig: pytest.Config) -> int:
    return pytestconfig.getoption("--kills")


@pytest.fixture(scope="module")
def table():
    """Rows that are printed once all stages are through."""
    rows: list[str] = []
    yield rows
    print(f"\n{'stage':<12}{'kills':>6}{'ended':>7}{'identical':>11}{'files left':>12}", *rows, sep="\n")


@pytest.fixture(scope="module")
def unbroken(project, tmp_path_factory, migrated_store):
    """A folder in which each stage ran once, unbroken."""
    folder = tmp_path_factory.mktemp("campaign") / "unbroken"
    folder.mkdir()
    params = write_tiny_params(folder, project, migrated_store, *LONGER)
    run(folder, params, "ingest", "shard", "tokenizer", "pretrain", "finetune")
    run(
        folder,
        params,
        *(f"{stage}_{task}" for task in ("detect", "segment") for stage in ("ingest", "shard")),
    )
    run(folder, params, "detect", "segment")
    return folder


def before(unbroken: Path, folder: Path, stage: str) -> Path:
    """Make `folder` a copy of the finished one, without what this stage left."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(unbroken, folder)
    for written in (*STAGES[stage], f"reports/{stage}", f"work/{stage}"):
        shutil.rmtree(folder / written, ignore_errors=True)
    return folder


def begin(folder: Path, stage: str) -> subprocess.Popen[str]:
    """Start a stage, and return once its packages are imported."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS_TO_SET}
    with (folder.parent / "stage.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, stage],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    assert process.stdout.readline() == "begins\n", (folder.parent / "stage.log").read_text()
    return process


def end(process: subprocess.Popen[str], seconds: float, alone: bool) -> bool:
    """Kill a process that still runs after so many seconds, alone or with its children; return if it did."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL) if alone else os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process.stdout.close()
    return process.returncode == -signal.SIGKILL


def wait_until_nothing_runs_in(folder: Path) -> None:
    """Loaders whose stage was killed must end by themselves."""
    deadline = time.monotonic() + 60
    while left := [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(folder)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def results(folder: Path, stage: str) -> dict[str, object]:
    """Return the bytes of all that a stage computes, and its figures."""
    found: dict[str, object] = {
        str(path.relative_to(folder)): path.read_bytes()
        for written in STAGES[stage]
        for path in sorted((folder / written).rglob("*"))
        if path.is_file()
    }
    figures = read_json(folder / f"reports/{stage}/metrics.json") or {}
    return found | {"figures": {name: value for name, value in figures.items() if name not in TIMED}}


def files(folder: Path) -> set[str]:
    """Name all files, but for the store's artifacts, whose names hold the id of the run."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if path.parts[0] not in ("mlruns", "mlartifacts")}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_at_random_moments_leaves_the_bytes_of_an_unbroken_one(
    unbroken, stage, kills, table, tmp_path
):
    folder, draw, tally = tmp_path / "killed", random.Random(), Tally()
    process, started = begin(before(unbroken, folder, stage), stage), time.monotonic()
    assert not end(process, 600, alone=True)
    assert process.returncode == 0, (tmp_path / "stage.log").read_text()
    whole = time.monotonic() - started
    expected, names = results(folder, stage), files(folder)
    assert expected == results(unbroken, stage)
    while tally.kills < kills:
        before(unbroken, folder, stage)
        while end(process := begin(folder, stage), draw.uniform(0, whole), alone=draw.random() < 0.5):
            tally.kills += 1
            wait_until_nothing_runs_in(folder)
        assert process.returncode == 0, (tmp_path / "stage.log").read_text()
        tally.ended += 1
        tally.identical += results(folder, stage) == expected
        tally.left |= files(folder) - names
    table.append(tally.row(stage))
    assert tally.identical == tally.ended
    assert not tally.left


def test_a_training_of_the_engine_killed_at_random_steps_ends_with_the_same_weights(kills, table, tmp_path):
    draw, tally, start = random.Random(), Tally(), context().Process
    (tmp_path / "unbroken").mkdir()
    warm = start(target=int)  # starts the fork server, which takes longer than a training
    warm.start()
    warm.join()
    process, started = start(target=toy.to_the_end, args=(tmp_path / "unbroken",)), time.monotonic()
    process.start()
    process.join()
    whole = time.monotonic() - started
    expected = torch.load(tmp_path / "unbroken/final.pt", weights_only=True)
    while tally.kills < kills:
        folder = tmp_path / f"killed-{tally.ended}"
        folder.mkdir()
        while not (folder / "final.pt").exists():
            process = start(target=toy.to_the_end, args=(folder,))
            process.start()
            process.join(draw.uniform(0, whole))
            process.kill()
            process.join()
            tally.kills += process.exitcode == -signal.SIGKILL
        tally.ended += 1
        found = torch.load(folder / "final.pt", weights_only=True)
        tally.identical += all(
            torch.equal(value, expected[part][name])
            for part, values in found.items()
            for name, value in values.items()
        )
        tally.left |= files(folder) - files(tmp_path / "unbroken")
    table.append(tally.row("engine"))
    assert tally.identical == tally.ended
    assert not tally.left
