"""A stage leaves its outcome in a file: running, finished, interrupted, rejected, failed, killed."""

import json
import os
import signal
import subprocess
import sys

import pytest
from stages.tiny import run, write_tiny_params

from mae.data.shards.write_shards import TooManyRejected
from mae.engine.loop import Interrupted
from mae.files import DiskFull
from mae.stages.context import outcome as outcomes
from mae.stages.context.outcome import outcome_file, recorded_outcome


@pytest.fixture
def params(tmp_path, project, migrated_store, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_tiny_params(tmp_path, project, migrated_store)


def outcome(params, stage="knn"):
    return json.loads(outcome_file(stage, params).read_text())


def test_a_finished_stage_names_its_run(params, tmp_path):
    run(tmp_path, params, "ingest")
    left = outcome(params, "ingest")
    record = json.loads((tmp_path / "reports/ingest/run.json").read_text())
    assert (left["stage"], left["state"], left["message"]) == ("ingest", "finished", "")
    assert left["run_id"] == record["run_id"]
    assert left["started"] < left["ended"]


def test_a_stage_at_work_says_so_with_its_process(params):
    with recorded_outcome("knn", params):
        left = outcome(params)
    assert (left["state"], left["pid"], left["ended"]) == ("running", os.getpid(), None)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Interrupted(3, None), "interrupted"),
        (KeyboardInterrupt(), "interrupted"),
        (TooManyRejected("a.jpg: truncated"), "rejected"),
        (ValueError("no labels"), "failed"),
        (SystemExit(1), "failed"),
    ],
)
def test_an_error_is_recorded_with_its_message_and_raised(params, error, state):
    with pytest.raises(type(error)), recorded_outcome("knn", params):
        raise error
    left = outcome(params)
    assert left["state"] == state
    assert left["message"] == (str(error) or type(error).__name__)
    assert left["ended"] >= left["started"]


def test_a_full_disk_at_the_end_does_not_hide_how_the_stage_ended(params, monkeypatch):
    def full(*_):
        raise DiskFull("no room left")

    def stage():
        with recorded_outcome("knn", params):
            monkeypatch.setattr(outcomes, "write_json", full)
            raise ValueError("no labels")

    with pytest.raises(ValueError, match="no labels"):
        stage()


def test_only_the_first_rank_writes(params, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with recorded_outcome("knn", params):
        pass
    assert not outcome_file("knn", params).exists()


def test_a_killed_stage_is_left_running_without_a_process(params, tmp_path):
    program = (
        "import os, signal; from mae import config; from mae.stages.context.outcome import recorded_outcome\n"
        "with recorded_outcome('knn', config.load()): os.kill(os.getpid(), signal.SIGKILL)"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False)
    assert process.returncode == -signal.SIGKILL
    left = outcome(params)
    assert left["state"] == "running"
    with pytest.raises(ProcessLookupError):
        os.kill(left["pid"], 0)


def test_no_address_in_an_outcome_has_its_password(params):
    with pytest.raises(ValueError, match="refused"), recorded_outcome("knn", params):
        raise ValueError("http://user:hush@host: refused")
    assert outcome(params)["message"] == "http://host: refused"
