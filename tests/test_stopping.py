"""A process stops on a signal, with the `dvc` or torchrun that started it, and within the grace."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and pidfds of Linux")

# Notes its pid, then waits in the interpreter, or in C alone, and says how it ended.
STAGE = """
import hashlib, os, sys, time
from mae import stopping
with stopping.obeyed() as watch:
    watch.grace = 1.0
    print(os.getpid(), file=open("pid.part", "w")); os.rename("pid.part", "pid")
    try:
        if sys.argv[1] == "in C":
            hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
        time.sleep(60)
    except KeyboardInterrupt:
        if sys.argv[1] == "saving":
            stopping.notice()
            time.sleep(2)
        print("stopped", file=open("end", "w"))
        sys.exit(75)
"""
# Starts the stage through a shell, which stays between the two.
LAUNCHER = """
import os, subprocess, sys
subprocess.run(["sh", "-c", f"{sys.executable} stage.py {sys.argv[1]}; true"],
               env={**os.environ, **dict(pair.split("=") for pair in sys.argv[2:])})
"""


@pytest.fixture
def stage(project, tmp_path, popen):
    """A function that starts the stage, alone or by a launcher that sets these variables for it."""
    (tmp_path / "stage.py").write_text(STAGE)

    def start(where="waiting", *variables, launched=True):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "TORCHEL"))}
        script = ["-c", LAUNCHER, where, *variables] if launched else ["stage.py", where]
        process = popen(
            [sys.executable, *script],
            cwd=tmp_path,
            env={**kept, "PYTHONPATH": str(project)},
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for((tmp_path / "pid").exists)
        return process, psutil.Process(int((tmp_path / "pid").read_text()))

    return start


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def over(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stage_ends_with_the_dvc_that_started_it_through_a_shell(stage, tmp_path, number):
    launcher, process = stage("waiting", "DVC_ROOT=.")
    launcher.send_signal(number)
    wait_for(lambda: over(process))
    assert (tmp_path / "end").exists()


def test_a_rank_ends_with_torchrun(stage, tmp_path):
    launcher, process = stage("waiting", "TORCHELASTIC_RUN_ID=mae")
    psutil.Process(launcher.pid).children()[0].kill()  # its parent here is the shell
    wait_for(lambda: over(process))
    assert (tmp_path / "end").exists()


def test_a_stage_that_somebody_put_into_the_background_outlives_its_parent(stage, tmp_path):
    launcher, process = stage()
    for parent in process.parents()[:2]:
        parent.kill()
    launcher.wait()
    with pytest.raises(psutil.TimeoutExpired):
        process.wait(1)
    process.terminate()
    wait_for((tmp_path / "end").exists)


def test_a_stop_that_long_c_code_does_not_see_is_obeyed_within_the_grace(stage):
    process, _ = stage("in C", launched=False)
    began = time.monotonic()
    process.terminate()
    assert process.wait(30) == 75
    assert time.monotonic() - began < 10
    assert "no end of this step within 1 s" in process.stderr.read()


def test_who_saves_has_more_than_the_grace(stage, tmp_path):
    process, _ = stage("saving", launched=False)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 75
    assert (tmp_path / "end").exists()


def test_workers_that_write_shards_end_with_their_stage(tmp_path, project, popen):
    code = """
import os, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from mae.stopping import end_with_parent
if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(60)
"""
    (tmp_path / "pool.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(project)}
    process = popen(
        [sys.executable, "pool.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    worker = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    wait_for(lambda: over(worker))


@pytest.mark.parametrize(
    ("command", "imported"),
    [
        (["mae", "pretrain"], "argparse"),
        (["mae", "pretrain"], "pydantic"),
        (["mae", "pretrain"], "timm"),
        (["pipelines.reproduce"], "pydantic"),
        (["pipelines.reproduce"], "prefect.flows"),
    ],
)
def test_ctrl_c_ends_without_a_traceback_from_the_first_imports_on(
    project, tmp_path, popen, command, imported
):
    shutil.copy(project / "params.yaml", tmp_path)
    process = popen(
        [sys.executable, "-X", "importtime", "-m", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    for line in process.stdout:
        if line.split("|")[-1].strip() == imported:
            break
    process.send_signal(signal.SIGINT)
    left = process.communicate(timeout=60)[0]
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in left
    assert "Exception" not in left


def test_a_stage_whose_dvc_is_gone_before_it_begins_says_so(monkeypatch):
    from mae import stopping

    class Init:
        pid = 1

        def cmdline(self):
            return ["/sbin/init"]

    monkeypatch.setenv("DVC_ROOT", str(Path()))
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setattr(psutil.Process, "parents", lambda self: [Init()])
    with pytest.raises(stopping.Orphaned, match="dvc"):
        stopping.ancestors()
