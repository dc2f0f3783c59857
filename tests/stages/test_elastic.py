"""Training over two machines survives the loss of one of them: torchrun's rendezvous, two local agents."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from engine.processes import free_port
from safetensors.torch import load_file
from stages.tiny import OURS_TO_SET, run, write_tiny_params
from torch.testing import assert_close

pytestmark = pytest.mark.slow
LONGER = [
    "pretrain={epochs: 80, batch_size: 4}",  # many steps that cost little
    "pretrain.probe.every_epochs=0",
    "runtime.checkpoint_every=10",
    "runtime.log_every=10",
]


@pytest.fixture(scope="module")
def sharded(project, tmp_path_factory, migrated_store):
    """A directory with shards, and the encoder that one unbroken process makes of them."""
    folder = tmp_path_factory.mktemp("elastic")
    run(folder, write_tiny_params(folder, project, migrated_store, *LONGER), "ingest", "shard", "pretrain")
    unbroken = losses(folder), load_file(folder / "models/pretrain/encoder.safetensors")
    for written in ("models", "reports"):
        shutil.rmtree(folder / written)
    return folder, *unbroken


def losses(folder):
    """{step: loss} of the training."""
    rows = (folder / "reports/pretrain/curve.csv").read_text().splitlines()[1:]
    return {int(row.split(",")[0]): float(row.split(",")[1]) for row in rows}


@pytest.fixture
def agent(sharded):
    """Starts `mae pretrain` as one machine of one or two; what is left of it at the end is killed."""
    folder, started = sharded[0], []
    launcher = {
        "PET_NNODES": "1:2",
        "PET_NPROC_PER_NODE": "1",
        "PET_MAX_RESTARTS": "3",
        "PET_RDZV_BACKEND": "c10d",
        "PET_RDZV_ENDPOINT": f"127.0.0.1:{free_port()}",
        # Of the defaults (30 s last call, 15 s heartbeats) only what a test would wait for.
        "PET_RDZV_CONF": "last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=3",
    }

    def begin(name):
        started.append(start(folder, name, launcher))
        return started[-1]

    yield begin
    for process in started:
        kill(process)


def start(folder, name, launcher):
    environment = {name: value for name, value in os.environ.items() if name not in OURS_TO_SET}
    environment |= launcher
    command = [sys.executable, "-m", "mae", "pretrain"]
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)


def kill(process):
    """As a machine dies: the agent and its worker at once, without a word."""
    with contextlib.suppress(psutil.NoSuchProcess):
        machine = psutil.Process(process.pid)
        for one in [*machine.children(recursive=True), machine]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
    process.wait(timeout=180)


def wait_for(first, happened):
    deadline = time.monotonic() + 400
    while not happened() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)


def test_training_goes_on_when_one_of_two_machines_is_lost_and_when_it_comes_back_to_the_same_end(
    sharded, agent
):
    folder, curve, encoder = sharded
    log = folder / "first.log"
    first = agent("first")
    # It must hold the rendezvous, as the machine of the endpoint does.
    wait_for(
        first, lambda: any(link.status == "LISTEN" for link in psutil.Process(first.pid).net_connections())
    )
    second = agent("second")
    wait_for(first, lambda: [*folder.glob("work/pretrain/*/checkpoints/*/step-*.pt")])
    kill(second)
    wait_for(first, lambda: "going on from step" in log.read_text())
    again = agent("again")
    assert first.wait(timeout=400) == 0, log.read_text()
    assert again.wait(timeout=180) == 0, (folder / "again.log").read_text()
    # After the loss from the last checkpoint; for the newcomer from one that was saved for its sake.
    assert log.read_text().count("going on from step") == 2, log.read_text()
    assert "Connection" in log.read_text()
    # The same batches, up to rounding; what is logged right after an odd step averages other steps.
    found = losses(folder)
    assert set(found) >= set(curve)
    different = [step for step in curve if abs(found[step] - curve[step]) > 1e-3 * curve[step]]
    assert len(different) <= 1, different
    # Adam makes steps out of mere rounding where the gradient is zero, as for the biases of the keys.
    assert_close(load_file(folder / "models/pretrain/encoder.safetensors"), encoder, rtol=0.01, atol=2e-3)
