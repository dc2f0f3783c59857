"""From the files of a run to the tracking server: now, later, or by another process."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from mae.tracking import machine
from mae.tracking.holding import is_held
from mae.tracking.server import METRICS_PER_CALL, PARENT_TAG, Rejected, Server, Unreachable
from mae.tracking.spool import Outbox, Spool, now_ms

LOG = logging.getLogger("mae.tracking")


def deliver(directory: Path, *, uri: str | None = None) -> bool:
    """Send what `directory` still holds for its server; the command `mae sync`.

    A run whose process is gone without a word is closed as KILLED; one that is still at work is left alone.

    Args:
        directory: a run's directory (with tracking.json and metrics.jsonl).
        uri: another store than the run was started for, e.g. when the server moved.

    Returns whether nothing is left to send.
    Raises Unreachable when the server does not answer (nothing is lost), ValueError where no run is.
    """
    if Spool.open(directory) is None:
        raise ValueError(f"{directory}: holds no run (no readable tracking.json)")
    with Spool(directory, {}).lock() as mine:
        spool = Spool.open(directory)
        if not mine or spool is None or _at_work(spool):
            return False
        state = spool.state
        if uri is not None:
            _send_to(Server(uri), spool)
        if state["status"] == "RUNNING" and not state.get("is_parent"):
            state |= {"status": "KILLED", "ended": now_ms()}
        drain(spool, Server(state["uri"]))
        return not spool.has_backlog()


def _send_to(server: Server, spool: Spool) -> None:
    """Another store than before knows nothing of the run."""
    if spool.state["uri"] != server.uri:
        spool.state |= {"uri": server.uri, "run_id": None, "experiment_id": None, "sent": 0}
        spool.state |= {"parent_run_id": None, "closed": False}


def _at_work(spool: Spool) -> bool:
    """Whether the run's own process still is there."""
    state = spool.state
    if state["status"] != "RUNNING" or state.get("is_parent"):
        return False
    return state["tags"].get("process") == machine.process_tags()["process"] or is_held(spool.directory)


def deliver_all(parent: Path, *, uri: str | None = None, limit_s: float | None = None) -> list[Path]:
    """Deliver every run started under `parent` (its outbox); returns the directories with a backlog left.

    Stops at the first server that does not answer and, between runs, after `limit_s` seconds.
    """
    outbox, left = Outbox(parent), []
    began, down = time.monotonic(), False
    for directory in outbox.directories():
        if not (directory / "tracking.json").exists():
            outbox.remove(directory)
            continue
        down = down or (limit_s is not None and time.monotonic() - began > limit_s)
        try:
            done = not down and deliver(directory, uri=uri)
        except Unreachable as error:
            LOG.warning("tracking server unreachable: %s", error)
            done, down = False, True
        if done:
            outbox.remove(directory)
        else:
            left.append(directory)
    return left


def drain(spool: Spool, server: Server) -> None:
    """Bring the server up to date with `spool`, in order: the run itself, queued things, metrics, the end.

    Raises Unreachable; what was sent until then is remembered. What the server rejects is dropped and named.
    """
    _ensure_run(spool, server)
    state = spool.state
    while state["pending"]:
        op = state["pending"][0]
        try:
            path = {"path": str(spool.directory / op["path"])} if "path" in op else {}
            server.perform(state["run_id"], op | path)
        except Rejected as error:
            LOG.warning("%s of run %s not taken by the tracking server: %s", op["op"], state["run_id"], error)
        state["pending"].pop(0)
        spool.save()
    _send_metrics(spool, server)
    if state["status"] != "RUNNING" and not state["closed"]:
        try:
            server.close(state["run_id"], state["status"], state["ended"])
        except Rejected as error:
            LOG.warning("run %s could not be closed: %s", state["run_id"], error)
        state["closed"] = True
        spool.save()


def _ensure_run(spool: Spool, server: Server) -> None:
    """Create the run, or reopen the one that a resumed stage goes on with, if this store still has it."""
    state = spool.state
    if state["run_id"] is not None and not state.get("reopen"):
        return
    above = _parent_run_id(spool, server)
    if state["run_id"] is not None:
        found = server.find_run(state["run_id"])
        if found is not None:
            server.reopen(state["run_id"], state["tags"] | ({PARENT_TAG: above} if above else {}))
            state |= {"reopen": False, "experiment_id": found.info.experiment_id}
            spool.save()
            return
        LOG.warning("run %s is not in this store any more: going on in a new run", state["run_id"])
        state |= {"run_id": None, "sent": 0}
    state["experiment_id"] = server.experiment_id(state["experiment"])
    # The answer to an earlier attempt may be all that was lost.
    made = server.made(state) if state.get("asked") else None
    state["asked"] = True
    spool.save()
    try:
        state["run_id"] = made or server.create_run(state, above)
    except Rejected as error:
        raise Unreachable(f"the run could not be created: {error}") from error
    state["reopen"] = False
    spool.save()


def _parent_run_id(spool: Spool, server: Server) -> str | None:
    """The parent's id; a parent that was started while the server was down is created first."""
    state = spool.state
    if state.get("parent_run_id") is None and state.get("parent"):
        parent = Spool.open(Path(state["parent"]))
        if parent is not None:
            with parent.lock() as mine:
                if mine:
                    parent = Spool.open(parent.directory) or parent
                    _send_to(server, parent)
                    _ensure_run(parent, server)
            state["parent_run_id"] = parent.state["run_id"]
    return state.get("parent_run_id")


def _send_metrics(spool: Spool, server: Server) -> None:
    """In batches, each noted once the server said it has it; one sent again is stored once."""
    batch: list[dict[str, Any]] = []
    size, end = 0, spool.state["sent"]
    for offset, line in spool.unsent():
        if batch and size + len(line) > METRICS_PER_CALL:
            _send_batch(spool, server, batch, end)
            batch, size = [], 0
        batch.append(line)
        size, end = size + len(line), offset
    if batch:
        _send_batch(spool, server, batch, end)


def _send_batch(spool: Spool, server: Server, batch: list[dict[str, Any]], end: int) -> None:
    try:
        server.log_metrics(spool.state["run_id"], batch)
    except Rejected as error:
        LOG.warning("metrics of run %s not taken: %s; they are in %s", spool.id, error, spool.metrics)
    spool.state["sent"] = end
    spool.save()
