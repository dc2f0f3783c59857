"""One stage of dvc.yaml: run under guard, its lines passed on as they come, its outcome in a word."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mae.__main__ import EXIT_INTERRUPTED, EXIT_REJECTED
from mae.config import Flows, StageFlow
from pipelines.guard import EXIT_LIMIT
from pipelines.working_copy import dvc_files, locks

QUIET = {
    "PYTHONUNBUFFERED": "1",
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
REPRODUCTION = "MAE_REPRODUCTION"  # mae: stages run side by side are told apart from other runs by it
# What DVC says of a stage that ended as `mae` ends it: saved, to go on from there; unusable data.
INTERRUPTED, REJECTED = f"exited with {EXIT_INTERRUPTED}", f"exited with {EXIT_REJECTED}"
LOCAL_MLFLOW_UI = "http://127.0.0.1:5000"  # `make ui`

State = Literal["Ran", "Unchanged", "Restored", "Failed", "TimedOut", "Rejected", "Interrupted", "Skipped"]
_live: set[subprocess.Popen[str]] = set()
_live_lock = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """What came of a stage. `seconds` of wall time; `mlflow_url`: a page of its MLflow run, if it has one."""

    stage: str
    state: State
    seconds: float = 0.0
    message: str = ""
    mlflow_url: str | None = None

    @property
    def done(self) -> bool:
        """Whether the stage's outputs are there and up to date."""
        return self.state in ("Ran", "Unchanged", "Restored")


def of_stage(settings: Flows, name: str) -> StageFlow:
    """The retries and time-out of one stage: its own, else those of all."""
    return settings.stages.get(name, settings)


def run_stage(
    name: str,
    root: Path,
    settings: Flows,
    env: Mapping[str, str] | None = None,
    log: Callable[[str], Any] = print,
    keep: Sequence[int] = (),
) -> Outcome:
    """`dvc repro -s name` at `root`; what it says goes to `log` line by line, live.

    Never raises for what the stage does. `env` is laid over the environment, e.g. CUDA_VISIBLE_DEVICES;
    `keep`: file descriptors of locks to hold until the last process of the stage has ended.
    """
    lines: deque[str] = deque(maxlen=200)
    said = set()  # what DVC says of the stage as a whole

    def passing(line: str) -> None:
        lines.append(line)
        if line.startswith(f"Stage '{name}'") or (line.startswith(f"'{name}'") and name.endswith(".dvc")):
            said.add("Unchanged" if "didn't change" in line else "Restored" if "is cached" in line else "")
        log(line)

    began = time.monotonic()
    limit = of_stage(settings, name).timeout
    # The flag before the command: wait for another dvc that looks around in the same working copy.
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "-s", name]
    status = run_guarded(command, root, grace=settings.grace, limit=limit, env=env, log=passing, keep=keep)
    if repaired := dvc_files.secure(root):
        log(repaired)
    state: State = "Ran"
    if status == EXIT_LIMIT:
        state = "TimedOut"
    elif status != 0:
        stopped = any(INTERRUPTED in line for line in lines) or any(map(_is_ending, lines))
        rejected = any(line.startswith("ERROR: ") and line.endswith(REJECTED) for line in lines)
        state = "Interrupted" if stopped else "Rejected" if rejected else "Failed"
    elif "Unchanged" in said:
        state = "Unchanged"
    elif "Restored" in said:
        state = "Restored"
    message = "" if status == 0 else _reason(lines, status)
    seconds, page = round(time.monotonic() - began, 1), mlflow_url(root, name, settings.mlflow_pages)
    return Outcome(name, state, seconds, message, page)


def is_changed(name: str, root: Path) -> bool:
    """Whether DVC would run the stage (or take it from its run cache)."""
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

    Each line that it prints goes to `log`. Returns its exit status; 124 where it took over `limit` seconds.
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
        # A worker that ends the flow's process group must leave it time to end what it guards.
        start_new_session=True,
        pass_fds=(*locks.inherited(), *keep),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with _live_lock:
        _live.add(process)
    try:
        with process.stdout:
            for line in process.stdout:  # universal newlines: a progress bar's returns end lines, too
                if text := line.rstrip():
                    log(text)
        return process.wait()
    finally:
        _close(process)
        process.wait()
        with _live_lock:
            _live.discard(process)


def _environment() -> dict[str, str]:
    """`python3` in dvc.yaml is the Python that runs this flow, its environment activated or not."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, **QUIET, "PATH": path}


def end_all() -> None:
    """Let the guards end whatever this process has them run; returns at once."""
    with _live_lock:
        for process in _live:
            _close(process)


def _close(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()


def mlflow_url(root: Path, stage: str, pages: str | None = None) -> str | None:
    """A page of the run that reports/<stage>/run.json names: of `pages`, else its server, else `make ui`."""
    try:
        noted = json.loads((Path(root) / "reports" / stage / "run.json").read_text())
        run_id, store = str(noted["run_id"]), str(noted["tracking"])
    except (OSError, ValueError, KeyError):
        return None
    if run_id.startswith("offline-"):  # the server was away; `mae sync` delivers it
        return None
    base = (pages or (store if store.startswith("http") else LOCAL_MLFLOW_UI)).rstrip("/")
    return f"{base}/#/runs/{run_id}"


def _is_ending(line: str) -> bool:
    return line.startswith("guard: ")


def _reason(lines: deque[str], status: int) -> str:
    """The stage's own last word where it has one, and how it ended."""
    own = [line for line in lines if not line.startswith(("ERROR: ", "guard: ", "Running stage", "> "))]
    ended = [line.removeprefix("guard: ") for line in lines if _is_ending(line)]
    faults = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    codes = [found for line in faults if (found := re.search(r"exited with -?\d+$", line))]
    how = ended[:1] or [code[0] for code in codes[-1:]] or faults[-1:] or [f"exited with {status}"]
    return " - ".join([*own[-1:], *how])
