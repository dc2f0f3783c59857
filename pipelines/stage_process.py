"""Commands under guard, and one of them: `dvc repro` of one stage."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mae.config import Flows, StageFlow
from pipelines.stage_outcome import Outcome, OutcomeReader, mlflow_url
from pipelines.working_copy import dvc_files, locks

QUIET = {
    "PYTHONUNBUFFERED": "1",
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}

_live: set[subprocess.Popen[str]] = set()
_live_lock = threading.Lock()


def stage_settings(settings: Flows, name: str) -> StageFlow:
    """Return the retries and time-out of one stage: its own, else those of all."""
    return settings.stages.get(name, settings)


def run_stage(
    name: str,
    root: Path,
    settings: Flows,
    work_dir: Path,
    env: Mapping[str, str] | None = None,
    log: Callable[[str], Any] = print,
    keep: Sequence[int] = (),
) -> Outcome:
    """Run `dvc repro -s name` at `root`; each line that it prints goes to `log` at once.

    Never raises for what the stage does.

    Args:
        work_dir: `runtime.work_dir` of params.yaml: the stage leaves its outcome there.
        env: variables added to the environment, e.g. CUDA_VISIBLE_DEVICES.
        keep: file descriptors of locks to hold until the last process of the stage has ended.
    """
    lines: deque[str] = deque(maxlen=200)

    def handle_line(line: str) -> None:
        lines.append(line)
        log(line)

    began = time.monotonic()
    reader = OutcomeReader(root, work_dir, name)
    limit = stage_settings(settings, name).timeout
    # The flag before the command: wait for another dvc that reads the same working copy.
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "-s", name]
    status = run_guarded(
        command, root, grace=settings.grace, limit=limit, env=env, log=handle_line, keep=keep
    )
    if repaired := dvc_files.secure(root):
        log(repaired)
    state, message = reader.read(status, lines)
    seconds, page = round(time.monotonic() - began, 1), mlflow_url(root, name, settings.mlflow_pages)
    return Outcome(name, state, seconds, message, page)


def is_changed(name: str, root: Path) -> bool:
    """Return whether DVC would run the stage, or restore it from its run cache."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "status", "--quiet", name]
    return subprocess.run(command, cwd=root, env=_environment(), check=False).returncode != 0


def run_guarded(
    command: Sequence[str],
    cwd: Path,
    *,
    grace: float,
    limit: float | None = None,
    env: Mapping[str, str] | None = None,
    log: Callable[[str], Any] = print,
    keep: Sequence[int] = (),
) -> int:
    """Run a command in `cwd` that ends with this process at the latest (see pipelines.guard).

    Each line that it prints goes to `log`. Returns its exit status; 124 past `limit` seconds.
    """
    guard = [sys.executable, "-P", str(Path(__file__).with_name("guard.py")), "--grace", str(grace)]
    guard += [] if limit is None else ["--limit", str(limit)]
    process = subprocess.Popen(
        [*guard, "--", *command],
        cwd=cwd,
        env={**_environment(), **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # So that a worker that ends the flow's process group leaves the guard time to end the command.
        start_new_session=True,
        pass_fds=(*locks.held_fds(), *keep),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with _live_lock:
        _live.add(process)
    try:
        with process.stdout:
            for line in process.stdout:  # universal newlines: the \r of a progress bar ends a line, too
                if text := line.rstrip():
                    log(text)
        return process.wait()
    finally:
        _close(process)
        process.wait()
        with _live_lock:
            _live.discard(process)


def _environment() -> dict[str, str]:
    """Make `python3` in dvc.yaml the Python that runs this flow, its environment activated or not."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, **QUIET, "PATH": path}


def end_all() -> None:
    """Let the guards end all commands that this process runs; return at once."""
    with _live_lock:
        for process in _live:
            _close(process)


def _close(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()
