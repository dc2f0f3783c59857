"""A Prefect server for all tests of the flows, and working copies with stages that take no time."""

import copy
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from stages.tiny import write_tiny_params

from mae import config

# The report of `mae drift` for new images that look like the earlier ones.
SOUND = {
    "counts": {"before": 500, "now": 700, "new": 200, "changed": 0, "removed": 0, "unchanged": 500},
    "examples": {"new": ["a.jpg"], "changed": [], "removed": []},
    "classes": {"shift": 0.05, "chance": 0.1, "shares": [{"class": "cat", "before": 0.1, "new": 0.15}]},
    "images": {
        "looked_at": {"before": 100, "new": 50},
        "undecodable": 0.0,
        "blank": {"before": 0.0, "new": 0.0},
        "shift": 0.2,
        "p": 0.3,
        "most": "contrast",
        "statistics": {},
    },
}


@pytest.fixture(scope="session")
def prefect_server():
    """One empty Prefect server; it takes some 15 s to start."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="module", autouse=True)
def paths_of_the_tests():
    """Restore sys.path: Prefect leaves the folder of a flow on it, whose `stages` is not the tests'."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture(scope="session", autouse=True)
def devices_of_the_tests(tmp_path_factory):
    """Keep device locks, which are in the folder for temporary files, apart from those of real flows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="session")
def dvc():
    """A function that runs a DVC command in a folder, as a person would; returns its output."""

    def run(folder, *arguments):
        command = [sys.executable, "-m", "dvc", *arguments]
        environment = {**os.environ, "DVC_NO_ANALYTICS": "true"}
        done = subprocess.run(
            command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return done.stdout.decode()

    return run


@pytest.fixture(scope="session")
def empty_repo(tmp_path_factory, dvc):
    folder = tmp_path_factory.mktemp("empty")
    dvc(folder, "init", "--no-scm", "--quiet")
    return folder


STAND_IN = Path(__file__).with_name("stand_in.py")


@pytest.fixture(scope="session")
def leaving():
    """A function that makes a command leave its outcome in a file, as a stage of `mae` does."""

    def wrapped(command):
        return shlex.join([sys.executable, str(STAND_IN), command])

    return wrapped


@pytest.fixture
def repo(tmp_path, empty_repo, project):
    """A function that makes a DVC working copy of stages: name -> (command, the stages it depends on).

    A stage's output is the file of its name, written once the command succeeded.
    """

    def make(stages):
        folder = tmp_path / "repo"
        if not folder.exists():
            shutil.copytree(empty_repo, folder)
            shutil.copy(project / "params.yaml", folder)
        lines = ["stages:"]
        for name, (command, ups) in stages.items():
            cmd = json.dumps(f"{command} && echo $DVC_STAGE > {name}")
            lines += [f"  {name}:", f"    cmd: {cmd}", f"    outs: [{name}]"]
            lines += [f"    deps: [{', '.join(ups)}]"] if ups else []
        (folder / "dvc.yaml").write_text("\n".join(lines) + "\n")
        return folder

    return make


@pytest.fixture(scope="session")
def first_stages(project, empty_repo, migrated_store):
    """A function that makes a working copy with some first stages of the project, tiny and with settings."""

    def make(folder, stages, *settings):
        shutil.copytree(empty_repo, folder)
        write_tiny_params(folder, project, migrated_store, *settings)
        rows = config.read_yaml(project / "dvc.yaml")["stages"]
        kept = {name: rows[name] for name in stages}
        for row in kept.values():
            row["cmd"] = row["cmd"].replace("python3", sys.executable)
        (folder / "dvc.yaml").write_text(json.dumps({"stages": kept}))  # JSON is YAML
        return folder

    return make


@pytest.fixture(scope="session")
def drifted():
    """A function that makes a report of `mae drift` without doubts, except for the given values."""

    def make(**changes):
        found = copy.deepcopy(SOUND)
        for part, values in changes.items():
            found[part] |= values
        return found

    return make


@pytest.fixture(scope="session")
def settings(project):
    """A function that makes the section `flows`: that of the project, quick, with other values."""

    def make(**other):
        values = config.read_yaml(project / "params.yaml")["flows"]
        return config.Flows.model_validate(
            {**values, "retries": 0, "retry_delay": 0.0, "grace": 5.0, **other}
        )

    return make
