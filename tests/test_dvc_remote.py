"""Results come from a DVC remote: a clean clone is up to date without computing anything."""

import os
import shutil
import subprocess
import sys

import pytest
from test_dvc import ALWAYS, STAND_IN

from mae.config import read_yaml

TRACKED = (
    "mae",
    "params.yaml",
    "dvc.yaml",
    "dvc.lock",
    ".dvcignore",
    ".gitignore",
    "stand_in.py",
    ".dvc",
    "reports",
)


@pytest.fixture(scope="module")
def run():
    """A function that runs a command in a folder and returns what it says."""
    known = dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "test")
    known |= dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "test@example.com")

    def call(folder, *command):
        program = [sys.executable, "-m", "dvc"] if command[0] == "dvc" else [command[0]]
        environment = {**os.environ, **known, "DVC_NO_ANALYTICS": "1"}
        done = subprocess.run(
            [*program, *command[1:]], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


@pytest.fixture(scope="module")
def pushed(project, tmp_path_factory, run):
    """A working copy in git whose results are in a local remote, with quick stand-ins for the stages."""
    folder = tmp_path_factory.mktemp("pushed") / "copy"
    folder.mkdir()
    # Other workers write compiled files, and rename them, meanwhile.
    shutil.copytree(project / "mae", folder / "mae", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", ".dvcignore", ".gitignore"):
        shutil.copy(project / name, folder / name)
    graph = (project / "dvc.yaml").read_text().replace("python3 -m mae", f"{sys.executable} stand_in.py")
    (folder / "dvc.yaml").write_text(graph)
    (folder / "stand_in.py").write_text(STAND_IN)
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "init", "--quiet")
    run(folder, "dvc", "remote", "add", "--default", "team", str(folder.parent / "remote"))
    run(folder, "dvc", "repro")
    run(folder, "git", "add", *(name for name in TRACKED if (folder / name).exists()))
    run(folder, "git", "commit", "--quiet", "-m", "results")
    run(folder, "dvc", "push")
    return folder


@pytest.fixture
def clone(pushed, tmp_path, run):
    run(tmp_path, "git", "clone", "--quiet", str(pushed), "clone")
    return tmp_path / "clone"


def ran(folder):
    file = folder / "ran.txt"
    return set(file.read_text().split()) if file.exists() else set()


def test_shards_stay_here_and_models_go_to_the_remote(pushed):
    lock = read_yaml(pushed / "dvc.lock")["stages"]
    remote = {file.name for file in (pushed.parent / "remote").rglob("*.dir")}
    kept = {
        out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"] if ".dir" in out["md5"]
    }
    for path, md5 in kept.items():
        assert (md5[2:] in remote) == (not path.endswith("tars")), path
    assert any(path.endswith("tars") for path in kept)


def test_a_clean_clone_is_up_to_date_without_computing_anything(pushed, clone, run):
    run(clone, "dvc", "repro", "--pull", "--allow-missing")
    assert ran(clone) <= ALWAYS
    assert (clone / "models/pretrain/encoder.safetensors").read_bytes() == (
        pushed / "models/pretrain/encoder.safetensors"
    ).read_bytes()
    assert not (clone / "data/shards/tars").exists()
    assert run(clone, "git", "diff", "--stat", "dvc.lock") == ""


def test_pull_alone_brings_the_models(clone, run):
    run(clone, "dvc", "pull", "--allow-missing")
    assert (clone / "models/pretrain/encoder.safetensors").exists()


def test_shards_are_written_again_where_a_changed_stage_needs_them(clone, run):
    run(clone, "dvc", "repro", "--pull", "--allow-missing")
    parameters = clone / "params.yaml"
    parameters.write_text(parameters.read_text().replace("mask_ratio: 0.75", "mask_ratio: 0.5"))
    run(clone, "dvc", "repro", "--pull")
    assert {"shard", "pretrain", "knn"} <= ran(clone)
    assert (clone / "data/shards/tars").exists()
