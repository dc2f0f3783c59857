"""`make serve` for real: server, deployments and flow runs are processes, and some of them are killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from datetime import UTC, datetime

import psutil
import pytest
from engine.processes import free_port
from ruamel.yaml import YAML

from mae.config import recipe

pytestmark = pytest.mark.slow

# What the stages do, in no time: the images are the lines of a file, a training waits until it may end.
STAGES = """
import json, os, signal, sys, time
from pathlib import Path

def write(name, text):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)

def saved(*_):
    write(f"saved-{os.getpid()}", "")
    sys.exit(75)

stage, images = sys.argv[1], Path("images").read_text()
if stage == "ingest":
    write("data/ingest/listing.tsv", images)
    manifest = {"kind": "folder", "fingerprint": images, "splits": {"train": {"count": images.count("\\n")}}}
    write("data/ingest/manifest.json", json.dumps(manifest))
if stage == "shard":
    write("data/shards/rejected.json", json.dumps({"rejected": []}))
if stage == "pretrain":
    signal.signal(signal.SIGINT, saved)
    write("training", str(os.getpid()))
    while not Path("go").exists():
        time.sleep(0.1)
    write("models/encoder", images)
if stage == "register":
    version = str(images.count("\\n"))
    model = {"name": "mae-encoder", "version": version, "model_id": f"m-{version}"}
    model["aliases"] = ["challenger", "champion"]
    about = {"promote": True, "reason": "better", "figure": "accuracy", "samples": 9, "models": [model]}
    about |= dict.fromkeys(("challenger", "champion", "gain", "low", "high"), 0.5)
    write("reports/register/decision.json", json.dumps({"encoder": about}))
"""


def stage(name, outs, deps=(), **more):
    return {"cmd": f"{sys.executable} stages.py {name}", "outs": outs, "deps": list(deps), **more}


@pytest.fixture(scope="module")
def copy(project, empty_repo, migrated_store, tmp_path_factory):
    """A working copy whose stages take no time, with the project's deployments."""
    folder = tmp_path_factory.mktemp("served") / "copy"
    shutil.copytree(empty_repo, folder)
    shutil.copy(project / "params.yaml", folder / "params.yaml")
    settings = ["flows={retries: 0, grace: 20.0}", f"runtime.tracking_uri=sqlite:///{folder}/mlflow.db"]
    recipe.apply(None, settings, folder / "params.yaml")
    shutil.copy(migrated_store, folder / "mlflow.db")
    shutil.copy(project / "prefect.yaml", folder / "prefect.yaml")
    (folder / "pipelines").symlink_to(project / "pipelines")
    (folder / "stages.py").write_text(STAGES)
    (folder / "images").write_text("one.jpg\n")
    manifest, never = "data/ingest/manifest.json", {"cache": False}
    stages = {
        "ingest": stage("ingest", ["data/ingest/listing.tsv", manifest], always_changed=True),
        "shard": stage("shard", [{"data/shards/rejected.json": never}], [manifest]),
        "pretrain": stage("pretrain", ["models/encoder"], [manifest]),
        "register": stage(
            "register", [{"reports/register/decision.json": never}], ["models/encoder"], always_changed=True
        ),
    }
    with (folder / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": stages}, file)
    return folder


class Served:
    """`python -m pipelines.serve` in a working copy, and what Prefect's API says of it."""

    def __init__(self, copy):
        self.copy, self.port, self.process = copy, free_port(), None
        self.log = (copy / "serve.log").open("w")

    def start(self):
        environment = {**os.environ, "PREFECT_HOME": str(self.copy / "prefect")}
        # Pages and deployments of this server alone; places are given back soon after a kill.
        environment["PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION"] = "30"
        for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
            environment.pop(name, None)
        command = [sys.executable, "-m", "pipelines.serve", "--port", str(self.port)]
        self.before = len(self.read("serve.log"))
        self.process = subprocess.Popen(
            command, cwd=self.copy, env=environment, stdout=self.log, stderr=self.log
        )
        self.wait(lambda: "polling for scheduled runs" in self.said(), "the deployments")

    def said(self):
        """By the process that serves now."""
        return self.read("serve.log")[self.before :]

    def post(self, path, body):
        url = f"http://127.0.0.1:{self.port}/api/{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def event(self):
        """As docs/operate.md has a bucket's hook do it."""
        one = {"id": str(uuid.uuid4()), "occurred": datetime.now(UTC).isoformat()}
        about = {"event": "mae.data.arrived", "resource": {"prefect.resource.id": "mae.images"}}
        self.post("events", [one | about])

    def runs(self, flow):
        """name of state -> number of the flow's runs in it."""
        found = self.post("flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})
        names = [run["state"]["name"] for run in found]
        return {name: names.count(name) for name in names}

    def run(self, flow):
        (deployment,) = self.post("deployments/filter", {"deployments": {"name": {"any_": [flow]}}})
        return self.post(f"deployments/{deployment['id']}/create_flow_run", {})["id"]

    def set_state(self, run_id, name):
        self.post(f"flow_runs/{run_id}/set_state", {"state": {"type": name.upper(), "name": name}})

    def state(self, run_id):
        (found,) = self.post("flow_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
        return found["state"]["name"]

    def switch(self, active):
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with (
            temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{self.port}/api"}),
            get_client(sync_client=True) as client,
        ):
            deployment = client.read_deployment_by_name("retrain/retrain")
            (schedule,) = deployment.schedules
            client.update_deployment_schedule(deployment.id, schedule.id, active=active)

    def training(self):
        """The process that trains, once it does."""
        pid = self.wait(lambda: self.read("training"), "a training")
        (self.copy / "training").unlink()
        return psutil.Process(int(pid))

    def read(self, name):
        try:
            return (self.copy / name).read_text()
        except OSError:
            return ""

    def wait(self, condition, what, seconds=300):
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited in vain for {what}\n{self.read('serve.log')}"
            time.sleep(0.5)
        return found


@pytest.fixture(scope="module")
def served(copy):
    text = (copy / "prefect.yaml").read_text()
    (copy / "prefect.yaml").write_text(text.replace('cron: "0 3 * * *"', 'cron: "* * * * *"'))
    served = Served(copy)
    served.start()
    yield served
    served.process.send_signal(signal.SIGTERM)
    served.process.wait(180)
    served.log.close()
    # The server outlived the `serve` that started it and was killed: who serves next uses it.
    left = [one for one in psutil.process_iter(["cmdline", "cwd"]) if one.info["cwd"] == str(copy)]
    for one in left:
        one.kill()
    assert all({"server", "uvicorn"} & set(one.info["cmdline"]) for one in left)


def ended(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_an_event_starts_a_retraining_and_a_second_one_meanwhile_is_cancelled(served):
    served.event()
    served.training()
    served.event()
    served.wait(lambda: served.runs("retrain").get("Cancelled"), "the second run")
    (served.copy / "go").touch()
    served.wait(lambda: served.runs("retrain") == {"Promoted": 1, "Cancelled": 1}, "the first run")


def test_a_schedule_runs_it_without_anybody_and_nothing_new_ends_it_early(served):
    served.switch(active=True)
    try:
        served.wait(lambda: served.runs("retrain").get("Unchanged data"), "a scheduled run")
    finally:
        served.switch(active=False)


def test_cancelling_on_the_page_ends_the_training_which_saves(served):
    (served.copy / "go").unlink()
    (served.copy / "images").write_text("one.jpg\ntwo.jpg\n")
    run = served.run("reproduce")
    training = served.training()
    served.set_state(run, "Cancelling")
    served.wait(lambda: served.state(run) == "Cancelled", "the cancelled run")
    served.wait(lambda: ended(training), "the training's end")
    assert (served.copy / f"saved-{training.pid}").exists()
    (table,) = served.post("artifacts/filter", {"flow_runs": {"id": {"any_": [run]}}})
    assert "| pretrain | Interrupted |" in table["data"]


def test_after_kill_9_nothing_trains_on_and_what_is_served_again_can_run(served):
    run = served.run("reproduce")
    training = served.training()
    served.process.kill()
    served.process.wait()
    served.wait(lambda: ended(training), "the training's end")
    assert (served.copy / f"saved-{training.pid}").exists()
    served.start()
    served.wait(lambda: served.state(run) == "Crashed", "the killed run")
    (served.copy / "go").touch()
    again = served.wait(lambda: served.run("reproduce"), "a new run")
    served.wait(lambda: served.state(again) == "Completed", "its end")
    assert (served.copy / "models/encoder").read_text() == "one.jpg\ntwo.jpg\n"
