"""A sweep of a pipeline whose stages take no time: killed, gone on with, and read."""

import csv
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from dvc.repo import Repo

from pipelines import sweep
from pipelines.stage_process import run_guarded
from pipelines.sweeping import experiments

AXES = """
stages: [linear]
demo_recipe: small.yaml
axes:
  mask_ratio: {title: Ratio, label: ratio, key: pretrain.mask_ratio, values: [0.25, 0.5]}
"""
STAGE = """
import json, os, pathlib, sys, time
from ruamel.yaml import YAML
stage, log = sys.argv[1], pathlib.Path(os.environ["SWEEP_LOG"])
params = YAML(typ="safe").load(pathlib.Path("params.yaml"))
ratio = params["pretrain"]["mask_ratio"]
with (log / "runs").open("a") as file:
    file.write(f"{stage} {ratio} {os.environ['CUDA_VISIBLE_DEVICES']} {os.environ['MLFLOW_TRACKING_URI']}\\n")
while stage == "linear" and (log / f"hang {ratio}").exists():
    time.sleep(0.1)
folder = pathlib.Path("reports") / stage
folder.mkdir(parents=True, exist_ok=True)
(folder / "metrics.json").write_text(json.dumps({"top1": ratio / 2}))
pathlib.Path(stage).write_text(str(ratio))
"""


def _stage(name, deps):
    metrics = f"[reports/{name}/metrics.json: {{cache: false}}]"
    return (
        f"  {name}: {{cmd: python stage.py {name}, deps: [stage.py{deps}], params: [{name}], "
        f"outs: [{name}], metrics: {metrics}}}\n"
    )


@pytest.fixture
def folder(project, tmp_path, monkeypatch):
    """A folder with parameters and axes, entered; no repository yet."""
    root = tmp_path / "copy"
    root.mkdir()
    text = (project / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("devices: []", "devices: [7]"))
    (root / "sweeps.yaml").write_text(AXES)
    (root / "small.yaml").write_text("pretrain: {epochs: 9}\n")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def working_copy(folder, tmp_path):
    """A git and DVC working copy with two stages, and a folder beside it that notes what ran."""
    log = tmp_path / "log"
    log.mkdir()
    (folder / "stage.py").write_text(STAGE)
    (folder / "dvc.yaml").write_text("stages:\n" + _stage("pretrain", "") + _stage("linear", ", pretrain"))
    (folder / ".gitignore").write_text("/work\n/mlflow.db*\n/pretrain\n/linear\n")
    person = "-c user.name=n -c user.email=e"
    commands = f"git init -q && dvc init -q && git add -A && git {person} commit -q -m all"
    subprocess.run(commands, shell=True, check=True)
    return folder, log


def _start(project, root, log, *given):
    environment = {**os.environ, "SWEEP_LOG": str(log), "PYTHONPATH": str(project)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.sweep", "mask_ratio", *given], cwd=root, env=environment
    )


def _runs(log):
    file = log / "runs"
    return [line.split()[:2] for line in file.read_text().splitlines()] if file.exists() else []


def _of(root):
    found = [p for p in psutil.process_iter(["cwd"]) if str(p.info["cwd"] or "").startswith(str(root))]
    return [p for p in found if p.pid != os.getpid()]  # which may have entered it, too


def _until(condition, seconds=400):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_a_killed_sweep_leaves_no_process_and_goes_on_with_what_is_not_finished(project, working_copy):
    root, log = working_copy
    (log / "hang 0.5").touch()
    first = _start(project, root, log)
    _until(lambda: ["linear", "0.5"] in _runs(log))
    first.send_signal(signal.SIGKILL)
    first.wait()
    _until(lambda: not _of(root))
    (log / "hang 0.5").unlink()

    assert _start(project, root, log).wait() == 0
    ran = _runs(log)
    assert ran.count(["pretrain", "0.25"]) == ran.count(["linear", "0.25"]) == 1, "finished: not run again"
    assert ran.count(["pretrain", "0.5"]) == 1, "restored from the run cache"
    assert ran.count(["linear", "0.5"]) == 2
    with (root / "reports/sweep/mask_ratio.csv").open(newline="") as file:
        assert [(row["at"], row["linear"]) for row in csv.DictReader(file)] == [
            ("0.25", "0.125"),
            ("0.5", "0.25"),
        ]
    places = {tuple(line.split()[2:]) for line in (log / "runs").read_text().splitlines()}
    assert places == {("7", f"sqlite:///{root}/mlflow.db")}, "its device alone; a store outside the copies"
    status = subprocess.run(["git", "status", "--porcelain"], cwd=root, check=True, capture_output=True)
    assert status.stdout.decode().split() == ["??", "reports/"], "the working copy is as it was"


def _one_value(root, value):
    (root / "sweeps.yaml").write_text(AXES.replace("[0.25, 0.5]", f"[{value}]"))


@pytest.mark.slow
def test_messages_to_workers_that_have_ended_do_not_end_those_of_the_next_sweep(project, working_copy):
    root, log = working_copy
    _one_value(root, 0.25)
    assert _start(project, root, log).wait() == 0
    with Repo(str(root)) as repo:
        repo.experiments.celery_queue.shutdown()
    _one_value(root, 0.7)
    assert _start(project, root, log, "--set", "flows.devices=[3]").wait() == 0
    assert ["linear", "0.7"] in _runs(log)
    devices = {tuple(line.split()[1:3]) for line in (log / "runs").read_text().splitlines()}
    assert devices == {("0.25", "7"), ("0.7", "3")}


@pytest.mark.slow
def test_a_worker_that_ends_before_the_queue_is_replaced(project, working_copy, monkeypatch, capsys):
    root, log = working_copy
    _one_value(root, 0.25)
    monkeypatch.setenv("SWEEP_LOG", str(log))
    monkeypatch.setenv("PYTHONPATH", str(project))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    begun = []

    def first_ends_at_once(command, *given, **named):
        begun.append(command)
        return run_guarded(command, *given, **named) if len(begun) > 1 else 0

    monkeypatch.setattr(experiments, "run_guarded", first_ends_at_once)
    assert sweep.main(["mask_ratio"]) == 0
    assert "worker 1 ended before the queue; another takes its place" in capsys.readouterr().out
    assert sorted(_runs(log)) == [["linear", "0.25"], ["pretrain", "0.25"]]


def test_images_that_the_copies_would_not_find_are_an_error_before_anything_is_queued(
    project, folder, capsys
):
    given = ["--recipe", str(project / "recipes/laptop_vit_tiny.yaml")]
    assert sweep.main(["mask_ratio", *given]) == sweep.EXIT_BAD_PARAMS
    said = capsys.readouterr().err
    assert "ingest.root: data/photos is relative" in said
    assert f"--set ingest.root={folder}/data/photos" in said


def test_axes_are_listed_where_none_is_named(folder, capsys):
    assert sweep.main([]) == 0
    assert capsys.readouterr().out.split() == ["mask_ratio", "Ratio"]


def test_bad_settings_are_explained_and_change_nothing(folder, capsys):
    before = (folder / "params.yaml").read_text()
    assert sweep.main(["mask_ratio", "--set", "pretrain.epoch=3"]) == sweep.EXIT_BAD_PARAMS
    assert "pretrain.epoch is not a key" in capsys.readouterr().err
    assert (folder / "params.yaml").read_text() == before
