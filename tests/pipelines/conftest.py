"""A Prefect server for all tests of the flows, and working copies with stages that take no time."""

import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from mae import config


@pytest.fixture(scope="session")
def prefect_server():
    """One empty Prefect server; it takes some 15 s to start."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session", autouse=True)
def devices_of_the_tests(tmp_path_factory):
    """The machine's device locks lie in its folder for temporary files: not among those of real flows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))
        patch.setattr(tempfile, "tempdir", None)
        yield


@pytest.fixture(scope="session")
def dvc():
    """A function that runs a DVC command in a folder, as a person would; returns what it says."""

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


@pytest.fixture
def repo(tmp_path, empty_repo):
    """A function that makes a DVC working copy of stages: name -> (command, the stages it depends on).

    A stage's output is the file of its name, written once the command went well.
    """

    def make(stages):
        folder = tmp_path / "repo"
        if not folder.exists():
            shutil.copytree(empty_repo, folder)
        lines = ["stages:"]
        for name, (command, ups) in stages.items():
            lines += [f"  {name}:", f"    cmd: {command} && echo $DVC_STAGE > {name}", f"    outs: [{name}]"]
            lines += [f"    deps: [{', '.join(ups)}]"] if ups else []
        (folder / "dvc.yaml").write_text("\n".join(lines) + "\n")
        return folder

    return make


@pytest.fixture(scope="session")
def settings(project):
    """A function that gives the section `flows`: the project's, quick, with other values."""

    def make(**other):
        values = config.read_yaml(project / "params.yaml")["flows"]
        return config.Flows.model_validate(
            {**values, "retries": 0, "retry_delay": 0.0, "grace": 5.0, **other}
        )

    return make
