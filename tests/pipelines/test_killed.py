"""A flow that trains is ended in every possible way: nothing is lost, and no process is left."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid

import psutil
import pytest
from prefect.client.orchestration import get_client
from stages.tiny import OURS_TO_SET

from mae import config, results
from mae.config.paths import VERSIONS
from mae.files import write_json

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]
LONGER = ["pretrain.epochs=60", "runtime.checkpoint_every=10", "flows.retries=0", "flows.grace=90.0"]


@pytest.fixture(scope="module")
def copy(first_stages, tmp_path_factory):
    """A working copy with the first stages of the project, at a size that a test can wait for."""
    stages = ("ingest", "shard", "tokenizer", "pretrain")
    folder = first_stages(tmp_path_factory.mktemp("flow") / "copy", stages, *LONGER)
    write_json(folder / VERSIONS, results.versions())
    return folder


@pytest.fixture
def start(copy, project, popen):
    """A function that starts the flow in a process of its own, which some `kill -9` may hit."""

    def run(**more):
        with get_client(sync_client=True) as client:
            server = {"PREFECT_API_URL": str(client.api_url), "PYTHONPATH": str(project)}
            server["OMP_NUM_THREADS"] = "1"
        environment = {name: value for name, value in os.environ.items() if name not in OURS_TO_SET}
        command = [sys.executable, "-m", "pipelines.reproduce"]
        with (copy / "flow.log").open("w") as log:
            return popen(command, cwd=copy, env=environment | server | more, stdout=log, stderr=log)

    return run


def newest_step(copy):
    found = sorted(copy.glob("work/pretrain/*/checkpoints/*/step-*.pt"))
    return int(found[-1].stem.partition("-")[2]) if found else 0


def wait_for(condition, copy, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (copy / "flow.log").read_text()
        time.sleep(0.1)


def begin_training(start, copy):
    before = newest_step(copy)
    process = start()
    wait_for(lambda: newest_step(copy) > before or process.poll() is not None, copy)
    assert process.poll() is None, (copy / "flow.log").read_text()
    return process, psutil.Process(process.pid).children(recursive=True)


def alive(process):
    """Return whether the process runs; without a parent it may stay a zombie."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def latest_flow_run():
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(sort="EXPECTED_START_TIME_DESC", limit=1)[0]


def running_in_mlflow(copy):
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{copy / 'mlflow.db'}")
    found = client.search_runs([exp.experiment_id for exp in client.search_experiments()])
    return {run.info.run_name for run in found if run.info.status == "RUNNING"}


def computed(folder):
    """Return the entries of dvc.lock without those that differ between runs: the id and the time of a run."""
    found = {}
    for name, stage in config.read_yaml(folder / "dvc.lock")["stages"].items():
        outs = [out for out in stage["outs"] if not out["path"].startswith("reports/")]
        found[name] = stage | {"outs": outs}
    return found


def test_however_a_flow_is_ended_training_saves_stops_and_goes_on_to_what_dvc_by_hand_leaves(
    start, copy, dvc, tmp_path, monkeypatch
):
    killed, children = begin_training(start, copy)
    saved = newest_step(copy)
    killed.kill()
    killed.wait()
    wait_for(lambda: not any(map(alive, children)), copy)
    assert newest_step(copy) >= saved
    left = latest_flow_run()
    assert left.state.name == "Running"

    ended, children = begin_training(start, copy)
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(left.id).state.name == "Crashed"
    ended.send_signal(signal.SIGTERM)
    ended.wait(120)
    assert not any(map(alive, children))
    saved = newest_step(copy)

    assert start().wait(300) == 0, (copy / "flow.log").read_text()
    assert f"going on from step {saved} of" in (copy / "flow.log").read_text()
    assert (copy / "models/pretrain/encoder.safetensors").is_file()
    assert running_in_mlflow(copy) <= {"repro"}

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    lock = (copy / "dvc.lock").read_text()
    dvc(copy, "repro", "--single-item", "shard", "tokenizer", "pretrain")
    assert (copy / "dvc.lock").read_text() == lock  # there is nothing left to do by hand
    for name in (".dvc", "data/versions.json", "dvc.yaml", "params.yaml", "mlflow.db"):
        one = copy / name
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (shutil.copytree if one.is_dir() else shutil.copy)(one, tmp_path / name)
    shutil.rmtree(tmp_path / ".dvc/cache", ignore_errors=True)
    dvc(tmp_path, "repro")
    assert computed(tmp_path) == computed(copy)
    encoder = "models/pretrain/encoder.safetensors"
    assert (tmp_path / encoder).read_bytes() == (copy / encoder).read_bytes()


def test_kill_9_of_the_worker_ends_the_flow_that_it_runs(project, tmp_path):
    hold = "import time; from pathlib import Path; from pipelines.working_copy.locks import exclusive\n"
    hold += "with exclusive(Path('.')):\n  open('held', 'w'); time.sleep(300)"
    (tmp_path / "hold.py").write_text(hold)
    environment = {**os.environ, "PYTHONPATH": str(project), "PREFECT__FLOW_RUN_ID": str(uuid.uuid4())}
    worker = subprocess.Popen(
        ["bash", "-c", f"{sys.executable} hold.py & echo $! > pid; wait"], cwd=tmp_path, env=environment
    )
    wait_for((tmp_path / "held").exists, tmp_path)
    worker.kill()
    worker.wait()
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not psutil.pid_exists(pid), tmp_path)
