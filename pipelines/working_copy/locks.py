"""The lock of a working copy: one flow at a time, which first clears up after a killed one in Prefect.

The lock is an flock on work/flow.lock. The guards of the stages inherit it (`held_fds`), so that it is free
only when all processes of a killed flow have ended: two trainings never share a work folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import IO, Any

FILE = "work/flow.lock"
WATCH_S = 1.0
_held: list[IO[str]] = []


class Busy(Exception):
    """Another flow runs in this working copy; the message names it."""


def held_fds() -> tuple[int, ...]:
    """Return the file descriptors that a guard must inherit (`pass_fds`)."""
    return tuple(file.fileno() for file in _held)


@contextmanager
def exclusive(root: Path, *, grace: float = 0.0) -> Iterator[None]:
    """Hold the working copy `root` inside a flow, and end this process if its parent dies.

    Sets the runs that the former holder left Running in Prefect to Crashed. Raises Busy.

    Args:
        grace: seconds to wait where the holder is dead, but its trainings are still saving.
    """
    from prefect.context import FlowRunContext

    context = FlowRunContext.get()
    run = context.flow_run if context else None
    path = Path(root) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        former = _take(file, grace)
        if former.get("flow_run_id"):
            _set_crashed(former["flow_run_id"], str(run.id) if run else "")
        _write(file, {"pid": os.getpid(), "flow_run_id": str(run.id) if run else None})
        _held.append(file)
        over = threading.Event()
        if os.environ.get("PREFECT__FLOW_RUN_ID"):
            threading.Thread(target=_end_with_parent, args=(os.getppid(), over, grace), daemon=True).start()
        try:
            yield
        finally:
            over.set()
            _held.remove(file)
            _write(file, {})


def _take(file: IO[str], grace: float) -> dict[str, Any]:
    """Lock the file; return the entry of a former holder that did not end properly. Raises Busy."""
    deadline = time.monotonic() + grace
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return _read(file)
        except BlockingIOError:
            holder = _read(file)
        if time.monotonic() > deadline or _alive(holder.get("pid")):
            raise Busy(
                f"{file.name} is held by process {holder.get('pid', 'unknown')}, flow run "
                f"{holder.get('flow_run_id') or 'unknown'}: wait until that flow has ended"
            )
        time.sleep(WATCH_S)


def _alive(pid: int | None) -> bool:
    import psutil

    try:
        return pid is None or psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _read(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        return dict(json.load(file))
    except ValueError:  # empty, or half written
        return {}


def _write(file: IO[str], holder: dict[str, Any]) -> None:
    file.seek(0)
    file.truncate()
    json.dump(holder, file)
    file.flush()


def _set_crashed(flow_run_id: str, own: str) -> None:
    """Set the flow run of a dead process, and the runs below it, to Crashed unless they have ended."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterId,
        FlowRunFilterParentFlowRunId,
    )
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed, State

    state: State[Any] = Crashed(message="Its process was killed; the next flow set this state.")
    with get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(flow_run_id)  # type: ignore[arg-type]
        except ObjectNotFound:  # of another Prefect server
            return
        below = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
        flows = client.read_flow_runs(flow_run_filter=below)  # pipelines.sharding makes some
        for flow in flows:
            if flow.state is None or not flow.state.is_final():
                client.set_flow_run_state(flow.id, state, force=True)
        ids = FlowRunFilterId(any_=[run.id, *(flow.id for flow in flows)])
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=ids))
        for task in tasks:
            if task.state is None or not task.state.is_final():
                client.set_task_run_state(task.id, state, force=True)
        # A worker that was started again may have begun the same flow run again.
        if flow_run_id != own and (run.state is None or not run.state.is_final()):
            client.set_flow_run_state(run.id, state, force=True)


def _end_with_parent(parent: int, over: threading.Event, grace: float) -> None:
    """End the process of this flow run, as its worker would, once the worker is gone (`kill -9`)."""
    while not over.wait(WATCH_S):
        if os.getppid() != parent:
            os.kill(os.getpid(), SIGTERM)
            # The guards end with this process at the latest, and it may wait for a server that is gone.
            if not over.wait(grace + 10 * WATCH_S):
                os.kill(os.getpid(), SIGKILL)
            return
