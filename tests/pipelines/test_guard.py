"""A guarded command leaves no process, however it ends."""

import fcntl
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

# Starts a grandchild in a session of its own (as torchrun's workers), notes its pid and waits.
DETACHED = "setsid sleep 300 & echo $! > pids; sleep 300 & echo $! >> pids; touch ready; wait"


@pytest.fixture
def guard(project, tmp_path, popen):
    """A function that starts a shell command under guard, and the folder that it runs in."""

    def start(script, *options, grace=5, **others):
        command = [sys.executable, "-P", str(project / "pipelines/guard.py"), "--grace", str(grace), *options]
        return popen(
            [*command, "--", "bash", "-c", script],
            cwd=tmp_path,
            **{"stdin": subprocess.PIPE, "stderr": subprocess.DEVNULL} | others,
        )

    return start


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def left(tmp_path):
    """Return the processes that still run of those whose pids the command noted."""
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    return [pid for pid in pids if psutil.pid_exists(pid)]


def test_a_command_that_ends_by_itself_gives_its_status(guard):
    assert guard("exit 0").wait(120) == 0
    assert guard("exit 3").wait(120) == 3
    assert guard("kill -9 $$").wait(120) == 128 + signal.SIGKILL


def test_what_the_command_left_running_is_ended_with_it(guard, tmp_path):
    assert guard("setsid sleep 300 & echo $! > pids; exit 4").wait(120) == 4
    assert not left(tmp_path)


def test_the_end_of_standard_input_ends_all_that_the_command_started(guard, tmp_path):
    process = guard(DETACHED)
    wait_for((tmp_path / "ready").exists)
    began = time.monotonic()
    process.stdin.close()
    process.wait(120)
    assert not left(tmp_path)
    assert time.monotonic() - began < 12


def test_it_needs_no_reader_of_its_messages(guard, tmp_path):
    process = guard(DETACHED, grace=1, stderr=subprocess.PIPE)
    wait_for((tmp_path / "ready").exists)
    process.stderr.close()  # as when the engine that held both ends is killed
    process.stdin.close()
    process.wait(120)
    assert not left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_that_the_command_started(guard, tmp_path, number):
    process = guard(DETACHED, grace=1)
    wait_for((tmp_path / "ready").exists)
    process.send_signal(number)
    process.wait(120)
    assert not left(tmp_path)


def test_kill_9_of_the_parent_ends_all_that_the_command_started(project, tmp_path):
    guard = f"{sys.executable} -P {project / 'pipelines/guard.py'} --grace 1 -- bash -c '{DETACHED}'"
    # The shell that holds the other end of the guard's standard input is the parent that is killed.
    parent = subprocess.Popen(
        ["bash", "-c", f"sleep 300 | {guard} & echo $! > guard; wait"], cwd=tmp_path, start_new_session=True
    )
    wait_for((tmp_path / "ready").exists)
    guard_pid = int((tmp_path / "guard").read_text())
    holder = next(child for child in psutil.Process(parent.pid).children() if child.name() == "sleep")
    holder.kill()
    parent.kill()
    parent.wait()
    wait_for(lambda: not left(tmp_path) and not psutil.pid_exists(guard_pid))


def test_whoever_ends_the_group_of_the_flow_leaves_the_guard_its_time(project, tmp_path):
    code = "import sys; from pathlib import Path; from pipelines.stage_process import run_guarded\n"
    code += "run_guarded(['bash', '-c', sys.argv[1]], Path(sys.argv[2]), grace=10)"
    script = "trap 'sleep 1; touch saved; exit 75' INT; touch ready; while :; do sleep 0.1; done"
    flow = subprocess.Popen(
        [sys.executable, "-c", code, script, str(tmp_path)], cwd=project, start_new_session=True
    )
    wait_for((tmp_path / "ready").exists)
    os.killpg(flow.pid, signal.SIGKILL)
    flow.wait()
    wait_for((tmp_path / "saved").exists)


def test_a_lock_is_held_until_the_last_process_of_the_command_has_ended(guard, tmp_path):
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = guard("echo $$ > pids; touch ready; sleep 300", pass_fds=[lock.fileno()])
        wait_for((tmp_path / "ready").exists)
    process.kill()  # the guard itself: nobody ends what it started
    process.wait()
    with (tmp_path / "lock").open("w") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.killpg(left(tmp_path)[0], signal.SIGKILL)
        wait_for(lambda: not left(tmp_path))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_past_the_limit_the_command_is_ended_with_status_124(guard, tmp_path):
    began = time.monotonic()
    assert guard(DETACHED, "--limit", "1", grace=1).wait(120) == 124
    assert time.monotonic() - began < 10
    assert not left(tmp_path)


def test_the_command_may_save_before_it_ends_and_its_status_counts(guard, tmp_path):
    script = "trap 'sleep 1; touch saved; exit 75' INT; touch ready; while :; do sleep 0.1; done"
    process = guard(script)
    wait_for((tmp_path / "ready").exists)
    process.stdin.close()
    assert process.wait(120) == 75
    assert (tmp_path / "saved").exists()


def test_a_command_that_logs_while_it_saves_does_not_need_a_reader(guard, tmp_path):
    script = "trap 'echo saving; sleep 1; echo more; touch saved; exit 75' INT; echo $$ > pids; touch ready; "
    process = guard(script + "while :; do sleep 0.1; done", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for((tmp_path / "ready").exists)
    process.stdout.close()
    process.stdin.close()
    assert process.wait(120) == 75
    assert (tmp_path / "saved").exists()
    assert not left(tmp_path)


def test_who_ignores_every_signal_is_killed_after_the_grace(guard, tmp_path):
    process = guard("trap '' INT TERM; echo $$ > pids; touch ready; while :; do sleep 0.1; done", grace=1)
    wait_for((tmp_path / "ready").exists)
    process.stdin.close()
    assert process.wait(120) == 128 + signal.SIGKILL
    assert not left(tmp_path)


def test_a_command_that_is_not_there_is_named(project):
    command = [sys.executable, "-m", "pipelines.guard", "--grace", "1", "--", "no-such-command"]
    done = subprocess.run(command, cwd=project, stdin=subprocess.PIPE, capture_output=True, text=True)
    assert done.returncode == 127
    assert "no-such-command" in done.stderr


def test_the_guard_imports_nothing_that_takes_long(project):
    code = "import sys, pipelines.guard; print([m for m in ('prefect', 'dvc', 'psutil') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"
