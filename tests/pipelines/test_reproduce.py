"""The flow `reproduce`, as a deployment or a person runs it."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
from PIL import Image
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from pipelines.reproduce import interactive_settings, reproduce
from pipelines.working_copy import locks

pytestmark = pytest.mark.usefixtures("prefect_server")
REPORT = "mkdir -p reports/r && cp given/report.md reports/report.md && cp given/a.png reports/r/a.png"


@pytest.fixture
def copy(repo, leaving, monkeypatch):
    """A working copy with a stage that fails, and one that writes a report with a picture."""
    stages = {"report": (leaving(REPORT), []), "bad": (leaving("echo 'a | b' >&2 && false"), ["report"])}
    folder = repo(stages)
    (folder / "given").mkdir()
    (folder / "given/report.md").write_text("# Results\n![A picture](r/a.png)\n![Not there](r/b.png)\n")
    Image.new("RGB", (8, 8), "red").save(folder / "given/a.png")
    (folder / "reports/report").mkdir(parents=True)
    noted = {"run_id": "0123abcd", "tracking": "http://mlflow.example"}
    (folder / "reports/report/run.json").write_text(json.dumps(noted))
    monkeypatch.chdir(folder)
    return folder


def artifact(key):
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), sort="CREATED_DESC", limit=1
        )
    return found[0].data


def test_overrides_are_written_and_state_and_artifacts_show_the_outcome(copy):
    overrides = {"pretrain.epochs": 7, "flows.retries": 0}
    state = reproduce(overrides=overrides, return_state=True)
    assert state.is_failed()
    assert state.message == "bad Failed: a | b"
    assert "epochs: 7" in (copy / "params.yaml").read_text()
    table = artifact("stages")
    assert "| report | Ran |" in table
    assert "[run](http://mlflow.example/#/runs/0123abcd)" in table
    assert r"a \| b |" in table
    report = artifact("report")
    assert "![A picture](data:image/png;base64," in report
    assert "![Not there](r/b.png)" in report
    assert reproduce(targets=["report"], return_state=True).message == "1 Unchanged"


def test_the_links_lead_where_people_find_mlflow(copy):
    pages = {"flows.mlflow_pages": "https://pages.example/", "flows.retries": 0}
    reproduce(targets=["report"], overrides=pages)
    assert "[run](https://pages.example/#/runs/0123abcd)" in artifact("stages")


def test_an_override_that_is_no_parameter_fails_the_flow_and_changes_nothing(copy):
    before = (copy / "params.yaml").read_text()
    state = reproduce(overrides={"pretrain.epoch": 7}, return_state=True)
    assert state.is_failed()
    assert "pretrain.epoch is not a key" in state.message
    assert (copy / "params.yaml").read_text() == before


def test_a_second_flow_ends_at_once_as_busy_and_says_who_is_at_work(copy):
    with locks.exclusive(copy):
        state = reproduce(return_state=True)
    assert (state.name, state.type.value) == ("Busy", "CANCELLED")
    assert f"process {os.getpid()}" in state.message


def test_its_parameters_have_types_and_help_in_the_pages():
    schema = reproduce.parameters
    described = schema.properties
    assert "all stages where empty" in described["targets"]["description"]
    assert "written into params.yaml" in described["overrides"]["description"]


def test_a_person_runs_it_by_module(copy, project):
    with get_client(sync_client=True) as client:
        environment = {**os.environ, "PREFECT_API_URL": str(client.api_url), "PYTHONPATH": str(project)}
    command = [sys.executable, "-m", "pipelines.reproduce", "report", "--set", "report.title=Mine"]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 Ran" in done.stdout
    assert "title: Mine" in (copy / "params.yaml").read_text()


def test_ctrl_c_is_not_seen_by_the_server_that_the_flow_needs_to_end_in_order(monkeypatch):
    def blocked():
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

    started_with = []
    monkeypatch.setattr(
        "prefect.client.orchestration.get_client",
        lambda **_: started_with.append(blocked()) or contextlib.nullcontext(),
    )
    with interactive_settings():
        assert not blocked()
    assert started_with == [True]
