"""One flow at a time in a working copy, and nothing of a killed one left Running."""

import json
import os
import subprocess
import sys
import time

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.states import Running

from pipelines.working_copy import locks

HOLD = "import sys, time; from pathlib import Path; from pipelines.working_copy.locks import exclusive\n"
HOLD += "with exclusive(Path(sys.argv[1])): print('held', flush=True); time.sleep(300)"


@pytest.fixture
def holder(project, tmp_path):
    """Another process that holds the working copy."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=project, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_flow_learns_who_holds_the_working_copy(holder, tmp_path):
    with pytest.raises(locks.Busy, match=f"process {holder.pid}"), locks.exclusive(tmp_path, grace=60.0):
        pass


def test_what_a_killed_flow_started_is_waited_for_then_the_working_copy_is_free(project, tmp_path):
    started = "import subprocess; from pipelines.working_copy.locks import held_fds\n"
    started += HOLD.replace(
        "print(", "subprocess.Popen(['sleep', '4'], pass_fds=held_fds(), stdout=2); print("
    )
    with subprocess.Popen(
        [sys.executable, "-c", started, str(tmp_path)], cwd=project, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        process.kill()
    began = time.monotonic()
    with locks.exclusive(tmp_path, grace=60.0):
        assert time.monotonic() - began > 1


def test_without_a_flow_at_work_the_working_copy_is_free_again(tmp_path):
    for _ in range(2):
        with locks.exclusive(tmp_path):
            assert json.loads((tmp_path / locks.FILE).read_text())["pid"] == os.getpid()
    assert not locks.held_fds()


def test_runs_that_a_killed_flow_left_running_are_set_to_crashed(prefect_server, tmp_path):
    @flow
    def killed():
        pass

    @task
    def stage():
        pass

    @flow
    def following():
        with locks.exclusive(tmp_path):
            pass

    with get_client(sync_client=True) as client:
        run = client.create_flow_run(killed, state=Running())
        below = client.create_task_run(stage, run.id, dynamic_key="0", state=Running())
        (tmp_path / "work").mkdir()
        (tmp_path / locks.FILE).write_text(json.dumps({"pid": dead_process(), "flow_run_id": str(run.id)}))
        following()
        assert client.read_flow_run(run.id).state.name == "Crashed"
        assert client.read_task_run(below.id).state.name == "Crashed"


def dead_process():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid
