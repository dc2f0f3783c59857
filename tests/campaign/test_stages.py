"""Stages and trainings that SIGKILL hits at random, again and again, leave what unbroken ones leave.

Minutes of work: only `make campaign` runs them; `--kills` says how many kills each stage gets. One deliberate
kill of each kind stays in the suite (tests/stages/test_kill.py, tests/engine/test_resume.py and others).
"""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from campaign.attempts import (
    End,
    Row,
    attempt,
    counted,
    difference,
    files,
    killed_until_it_ends,
    log_of,
    remove,
    results,
)
from engine import toy
from engine.processes import context
from stages.tiny import ORDER, write_tiny_params

pytestmark = pytest.mark.campaign

# Long enough to be hit in all parts.
LONGER = [
    "runtime.workers=1",
    "runtime.checkpoint_every=5",
    "demo={train: 120, val: 30, size: 64}",
    "shard.max_count=4",
    "shard_detect.max_count=4",
    "shard_segment.max_count=4",
    "tokenizer={kind: fsq, levels: [5, 5], width: 8, depth: 1, epochs: 10, batch_size: 20, warmup_epochs: 1}",
    "pretrain.epochs=10",
    "finetune.epochs=10",
    "detect={steps: 20, milestones: [15]}",
    "segment.steps=40",
]


@pytest.fixture(scope="module")
def unbroken(project, tmp_path_factory, migrated_store):
    """A folder in which each stage ran once, unbroken; beside it the store as `register` found it."""
    folder = tmp_path_factory.mktemp("campaign") / "unbroken"
    folder.mkdir()
    write_tiny_params(folder, project, migrated_store, *LONGER)
    shutil.copy(project / "dvc.yaml", folder / "dvc.yaml")
    for stage in ORDER:
        if stage == "register":
            shutil.copy(folder / "mlflow.db", folder.parent / "before.db")
        assert attempt(folder, stage).code == 0, log_of(folder)
    return folder


def before(unbroken: Path, folder: Path, stage: str) -> None:
    """Make `folder` a copy of the finished one, without what this stage left."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(unbroken, folder, ignore=shutil.ignore_patterns("mlruns", "mlartifacts"))
    if stage == "register":
        shutil.copy(unbroken.parent / "before.db", folder / "mlflow.db")
    remove(folder, stage)


@pytest.mark.parametrize("stage", ORDER)
def test_a_stage_killed_at_random_leaves_the_bytes_of_an_unbroken_one(
    unbroken, stage, kills, table, tmp_path
):
    folder, draw, row = tmp_path / "killed", random.Random(), Row(stage)
    before(unbroken, folder, stage)
    end: End = attempt(folder, stage)
    assert end.code == 0, log_of(folder)
    expected, names, count = results(folder, stage), files(folder), counted(folder, stage)
    assert expected == results(unbroken, stage)
    while row.tried < kills:
        before(unbroken, folder, stage)
        row.tried += killed_until_it_ends(folder, stage, end, draw)
        row.ended += 1
        row.came_back += 1
        row.identical += results(folder, stage) == expected
        row.lost_or_doubled += difference(counted(folder, stage), count)
        row.left |= files(folder) - names
    table.append(row)
    row.check()


def test_a_training_of_the_engine_killed_at_random_steps_ends_with_the_same_weights(kills, table, tmp_path):
    draw, row, start = random.Random(), Row("engine's loop"), context().Process
    (tmp_path / "unbroken").mkdir()
    warm = start(target=int)  # starts the fork server, which takes longer than a training
    warm.start()
    warm.join()
    process, started = start(target=toy.to_the_end, args=(tmp_path / "unbroken",)), time.monotonic()
    process.start()
    process.join()
    whole = time.monotonic() - started
    expected = torch.load(tmp_path / "unbroken/final.pt", weights_only=True)
    while row.tried < kills:
        folder = tmp_path / f"killed-{row.ended}"
        folder.mkdir()
        while not (folder / "final.pt").exists():
            process = start(target=toy.to_the_end, args=(folder,))
            process.start()
            process.join(draw.uniform(0, whole))
            process.kill()
            process.join()
            row.tried += process.exitcode == -signal.SIGKILL
        row.ended += 1
        row.came_back += 1
        found = torch.load(folder / "final.pt", weights_only=True)
        row.identical += all(
            torch.equal(value, expected[part][name])
            for part, values in found.items()
            for name, value in values.items()
        )
        row.left |= files(folder) - files(tmp_path / "unbroken")
    table.append(row)
    row.check()
