"""A real stage, killed and interrupted as a cluster does it, ends as if nothing had happened."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import psutil
import pytest
from stages.tiny import OURS_TO_SET, run, write_tiny_params

from mae import config, interchange, tracking
from mae.config import recipe
from mae.files import read_json

pytestmark = pytest.mark.slow
# Many steps of few images: an epoch costs more than its steps.
LONGER = ["pretrain={epochs: 8, batch_size: 2}", "runtime.checkpoint_every=10", "runtime.workers=1"]


@pytest.fixture(scope="module")
def sharded(project, tmp_path_factory, migrated_store):
    """A directory with shards, and the encoder that an unbroken run makes of them."""
    folder = tmp_path_factory.mktemp("killed")
    params = write_tiny_params(folder, project, migrated_store, *LONGER)
    run(folder, params, "ingest", "shard", "pretrain")
    unbroken = (folder / "models/pretrain/encoder.safetensors").read_bytes()
    shutil.rmtree(folder / "models")
    return folder, params, unbroken


def start(folder, stage="pretrain"):
    """`mae <stage>` in a group of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS_TO_SET}
    return subprocess.Popen(
        [sys.executable, "-m", "mae", stage],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def newest_step(folder, stage="pretrain"):
    found = sorted(folder.glob(f"work/{stage}/*/checkpoints/*/step-*.pt"))
    return int(found[-1].stem.partition("-")[2]) if found else 0


def newest_logged(folder):
    (metrics,) = folder.glob("work/pretrain/*/run/metrics.jsonl")
    return tracking.history(metrics)["loss"][-1][0]


def wait_for_step(process, folder, step, stage="pretrain"):
    deadline = time.monotonic() + 300
    while newest_step(folder, stage) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()


def test_sigterm_saves_with_its_own_status_sigkill_loses_nothing_and_the_end_is_the_same(sharded):
    folder, params, unbroken = sharded
    first = start(folder)
    wait_for_step(first, folder, 10)
    os.killpg(first.pid, signal.SIGTERM)
    said = first.communicate(timeout=180)[1]
    assert first.returncode == 75, said
    assert "saved" in said
    saved = sorted(folder.glob("work/pretrain/*/checkpoints/*/step-*.pt"))[-1]
    imported = interchange.import_(saved, folder / "saved.safetensors")  # no argument is needed
    assert imported["num_heads"] == params.encoder.num_heads
    assert imported["mean"] == list(params.input.mean)
    second = start(folder)
    wait_for_step(second, folder, newest_step(folder) + 20)
    while newest_logged(folder) <= newest_step(folder) and second.poll() is None:
        time.sleep(0.002)
    os.killpg(second.pid, signal.SIGKILL)
    second.communicate(timeout=180)
    assert newest_step(folder) >= 30
    assert not (folder / "models/pretrain/encoder.safetensors").exists()
    run(folder, params, "pretrain")
    assert (folder / "models/pretrain/encoder.safetensors").read_bytes() == unbroken
    assert not list(folder.glob("work/pretrain/*/checkpoints"))
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as store:
        losses = store.execute("select run_uuid, step from metrics where key = 'loss'").fetchall()
    assert len({run for run, _ in losses}) == 2  # the unbroken run, and this one with its three processes
    assert len(losses) == len(set(losses))  # though the killed one had logged steps after its checkpoint


def test_whoever_ends_a_plain_dvc_repro_ends_its_training_which_saves(sharded):
    folder, params, unbroken = sharded
    shutil.rmtree(folder / "models", ignore_errors=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm"], cwd=folder, check=True)
    stage = f"stages:\n  pretrain:\n    cmd: {sys.executable} -m mae pretrain\n    outs: [models/pretrain]\n"
    (folder / "dvc.yaml").write_text(stage)
    environment = {name: value for name, value in os.environ.items() if name not in OURS_TO_SET}
    dvc = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    wait_for_step(dvc, folder, 10)
    children = psutil.Process(dvc.pid).children(recursive=True)
    dvc.terminate()  # dvc alone
    dvc.wait()
    left = psutil.wait_procs(children, 60)[1]
    dvc.stderr.close()
    assert not left
    outcome = read_json(folder / "work/pretrain/outcome.json")
    assert (outcome["state"], "saved" in outcome["message"]) == ("interrupted", True)
    run(folder, params, "pretrain")
    assert (folder / "models/pretrain/encoder.safetensors").read_bytes() == unbroken


def test_a_killed_tokenizer_goes_on_and_ends_the_same(sharded):
    folder, _, _ = sharded
    small = "{kind: fsq, levels: [5, 5], width: 8, depth: 1, epochs: 5, batch_size: 2, warmup_epochs: 1}"
    recipe.apply(None, [f"tokenizer={small}"], folder / "params.yaml")
    params, file = config.load(folder / "params.yaml"), folder / "models/tokenizer/tokenizer.safetensors"
    run(folder, params, "tokenizer")
    unbroken = file.read_bytes()
    process = start(folder, "tokenizer")
    wait_for_step(process, folder, 20, "tokenizer")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=180)
    assert newest_step(folder, "tokenizer") >= 20
    assert not file.exists()
    run(folder, params, "tokenizer")
    assert file.read_bytes() == unbroken
