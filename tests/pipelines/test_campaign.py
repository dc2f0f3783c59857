"""Kill what a stage needs: a loader worker, its ranks, DVC, a flow, the servers of Prefect and MLflow."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest
from campaign.attempts import Row, attempt, counted, files, log_of, remove, results
from prefect.client.orchestration import get_client
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings
from safetensors.torch import load_file
from stages.tiny import OURS_TO_SET
from torch.testing import assert_close
from tracking.test_tracking_outage import MlflowServer

pytestmark = pytest.mark.campaign

STAGES = ("versions", "ingest", "shard", "tokenizer", "pretrain")
LONGER = [
    "demo={train: 120, val: 30, size: 64}",
    "runtime.checkpoint_every=5",
    "runtime.workers=2",
    "pretrain.epochs=30",
    "flows.retries=0",
    "flows.grace=90.0",
]


@pytest.fixture(scope="module")
def unbroken(first_stages, tmp_path_factory):
    """A working copy in which the first stages ran once."""
    folder = first_stages(tmp_path_factory.mktemp("surroundings") / "unbroken", STAGES, *LONGER)
    for stage in STAGES:
        assert attempt(folder, stage).code == 0, log_of(folder)
    return folder


@pytest.fixture
def folder(unbroken, tmp_path):
    """A copy of the working copy, and a function that makes it as before pretraining."""
    copy = tmp_path / "killed"

    def again():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(unbroken, copy)
        remove(copy, "pretrain")

    again()
    return copy, again


@pytest.fixture
def finish(unbroken, folder):
    """A function that adds what a row's attempts left. known: the files of a whole run of that kind."""
    copy, _ = folder
    expected, count = results(unbroken, "pretrain"), counted(unbroken, "pretrain")

    def add(row: Row, known: set[str]) -> None:
        row.ended += 1
        row.came_back += 1
        found, values = results(copy, "pretrain"), counted(copy, "pretrain")
        # A training that is asked to stop saves, and logs the step at which it does: the curve has one more.
        row.identical += all(found[name] == expected[name] for name in expected if "curve" not in name)
        row.lost_or_doubled += len(set(count) - set(values)) + sum(values.values()) - len(values)
        row.left |= files(copy) - known

    return add


def begin(copy, *command: str, **environment: str) -> subprocess.Popen[bytes]:
    kept = {name: value for name, value in os.environ.items() if name not in OURS_TO_SET}
    with (copy.parent / "attempt.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=copy,
            env=kept | {"OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "true"} | environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def running(copy) -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(copy)]


def steps_saved(copy) -> int:
    return len([*copy.glob("work/pretrain/*/checkpoints/*/step-*.pt")])


def wait_until_it_trains(process: Any, copy, draw) -> None:
    """Wait for a checkpoint, then a moment more."""
    deadline = time.monotonic() + 300
    while process.poll() is None and not steps_saved(copy):
        assert time.monotonic() < deadline, log_of(copy)
        time.sleep(0.05)
    time.sleep(draw.uniform(0, 3))


def wait_for_the_end_of_all(copy) -> None:
    deadline = time.monotonic() + 120
    while left := running(copy):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_a_lost_loader_worker_is_named_and_the_next_run_goes_on(unbroken, folder, finish, kills, table):
    (copy, again), row, draw = folder, Row("loader worker"), random.Random()
    while row.tried < kills:
        again()
        process = begin(copy, "mae", "pretrain")
        wait_until_it_trains(process, copy, draw)
        workers = [one for one in running(copy) if one.pid != process.pid]
        if process.poll() is None and workers:
            draw.choice(workers).kill()
            row.tried += 1
        process.wait(300)
        # The last line: torch raises in a signal handler, so that Python may print a traceback before it.
        if process.returncode != 0:
            assert "a process that loads images was killed" in log_of(copy).splitlines()[-1], log_of(copy)
        wait_for_the_end_of_all(copy)
        assert process.returncode == 0 or attempt(copy, "pretrain").code == 0, log_of(copy)
        finish(row, files(unbroken))
    table.append(row)
    row.check()


def test_ranks_and_workers_may_change_between_attempts(unbroken, folder, kills, table):
    (copy, again), draw = folder, random.Random()
    row = Row("ranks 1, 2, 1; other workers", bytes_are_promised=False)
    encoder = "models/pretrain/encoder.safetensors"
    while row.tried < kills:
        again()
        for ranks, workers in (("1", 1), ("2", 0)):
            shape = {"PET_NPROC_PER_NODE": ranks} if ranks != "1" else {}
            process = begin(copy, "mae", "recipe", "--set", f"runtime.workers={workers}")
            assert process.wait(120) == 0, log_of(copy)
            saved = steps_saved(copy)
            process = begin(copy, "mae", "pretrain", **shape)
            wait_until_it_trains(process, copy, draw)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                row.tried += 1
            process.wait(300)
            wait_for_the_end_of_all(copy)
            assert saved <= steps_saved(copy) or (copy / encoder).exists()  # it had ended
        assert attempt(copy, "pretrain").code == 0, log_of(copy)
        row.ended += 1
        row.came_back += 1
        assert_close(load_file(copy / encoder), load_file(unbroken / encoder), rtol=0.02, atol=5e-3)
        row.lost_or_doubled += len(set(counted(unbroken, "pretrain")) - set(counted(copy, "pretrain")))
    table.append(row)
    row.check()


def killed_and_run_again(row, folder, finish, kills, command, **environment) -> Row:
    """Kill a command that trains, alone or with all that it started, and run it again, until `kills`."""
    (copy, again), draw = folder, random.Random()
    assert begin(copy, *command, **environment).wait(600) == 0, log_of(copy)
    known = files(copy)
    while row.tried < kills:
        again()
        process = begin(copy, *command, **environment)
        wait_until_it_trains(process, copy, draw)
        if process.poll() is None:
            process.kill() if draw.random() < 0.5 else os.killpg(process.pid, signal.SIGKILL)
            row.tried += 1
        process.wait(300)
        wait_for_the_end_of_all(copy)
        assert begin(copy, *command, **environment).wait(600) == 0, log_of(copy)
        finish(row, known)
    return row


def test_dvc_killed_alone_or_with_its_stage_goes_on(folder, finish, kills, table):
    table.append(killed_and_run_again(Row("dvc repro"), folder, finish, kills, ("dvc", "repro")))
    table[-1].check()


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_killed_at_random_is_made_good_by_the_next(folder, finish, project, kills, table):
    with get_client(sync_client=True) as client:
        server = {"PREFECT_API_URL": str(client.api_url), "PYTHONPATH": str(project)}
    command = ("pipelines.reproduce",)
    table.append(killed_and_run_again(Row("Prefect flow"), folder, finish, kills, command, **server))
    table[-1].check()


def test_a_flow_whose_server_was_killed_is_made_good_by_the_next(
    folder, finish, project, kills, table, tmp_path
):
    (copy, again), row, draw = folder, Row("Prefect server"), random.Random()
    store = f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}"
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: store}):
        server = SubprocessASGIServer()
        server.start(120)
        known = {"PREFECT_API_URL": server.api_url, "PYTHONPATH": str(project)}
        assert begin(copy, "pipelines.reproduce", **known).wait(600) == 0, log_of(copy)
        whole = files(copy)
        while row.tried < kills:
            again()
            process = begin(copy, "pipelines.reproduce", **known)
            wait_until_it_trains(process, copy, draw)
            row.tried += 1
            server.server_process.kill()
            server.stop()
            time.sleep(draw.uniform(0, 3))
            server.start(120)
            process.wait(600)
            wait_for_the_end_of_all(copy)
            assert begin(copy, "pipelines.reproduce", **known).wait(600) == 0, log_of(copy)
            finish(row, whole)
        server.stop()
    table.append(row)
    row.check()


def test_a_server_of_mlflow_killed_at_random_gets_each_value_once(
    unbroken, folder, finish, kills, table, tmp_path
):
    (copy, again), row, draw = folder, Row("MLflow server"), random.Random()
    (tmp_path / "server").mkdir()
    shutil.copy(copy / "mlflow.db", tmp_path / "server/mlflow.db")
    server, known = MlflowServer(tmp_path / "server"), files(unbroken)
    server.start()
    while row.tried < kills:
        again()
        process = begin(copy, "mae", "pretrain", MLFLOW_TRACKING_URI=server.address)
        wait_until_it_trains(process, copy, draw)
        row.tried += 1
        server.kill()
        time.sleep(draw.uniform(0, 3))
        server.start()
        assert process.wait(300) == 0, log_of(copy)
        assert begin(copy, "mae", "sync", MLFLOW_TRACKING_URI=server.address).wait(120) == 0, log_of(copy)
        shutil.copy(server.store, copy / "mlflow.db")
        finish(row, known)
    server.kill()
    table.append(row)
    row.check()
