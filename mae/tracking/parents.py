"""The run above the runs: one per `dvc repro`, so that its stages stand together in MLflow."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from mae.tracking import machine
from mae.tracking.delivery import deliver, drain
from mae.tracking.holding import one_at_a_time
from mae.tracking.server import Rejected, Server, Unreachable
from mae.tracking.spool import Outbox, Spool, now_ms, write_json

LOG = logging.getLogger("mae.tracking")
REPRODUCTION = "reproduction"


def read(parent: Path) -> Spool | None:
    """The run that `parent` (a small JSON file) names, or None."""
    try:
        return Spool.open(Path(json.loads(parent.read_text())["directory"]))
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None


def begin(parent: Path, *, uri: str, experiment: str, tags: dict[str, str], why: str) -> Spool:
    """Start a new parent run and name it in the file `parent`; the one before it is closed. Sends nothing."""
    _close_previous(parent)
    directory = parent.with_suffix(".d") / f"parent-{now_ms()}"
    tags = {**tags, "parent.file": str(parent.absolute())}
    spool = Spool.new(
        directory.absolute(), uri=uri, experiment=experiment, stage="repro", tags=tags, is_parent=True
    )
    Outbox(parent).add(directory)
    _name(parent, spool)
    LOG.info("new parent run (%s)", why)
    return spool


def current(parent: Path, *, uri: str, experiment: str, tags: dict[str, str]) -> Spool:
    """The parent run that the file names, or a new one where it names none that this store has."""
    spool = read(parent)
    if spool is None:
        return begin(parent, uri=uri, experiment=experiment, tags=tags, why=f"{parent} names none")
    state = spool.state
    if (state["uri"], state["experiment"]) != (uri, experiment):
        why = f"the last one is in experiment {state['experiment']!r} of another tracking address"
        return begin(parent, uri=uri, experiment=experiment, tags=tags, why=why)
    return _opened(spool)


def shared(
    parent: Path, reproduction: str, *, uri: str, experiment: str, tags: dict[str, str]
) -> tuple[Spool, bool]:
    """The parent of stages that may start at the same time, and whether this call, the first, began it."""
    with one_at_a_time(parent.with_suffix(".lock")):
        tags = tags | {REPRODUCTION: reproduction}
        spool = read(parent)
        if spool is None or spool.state["tags"].get(REPRODUCTION) != reproduction:
            return begin(parent, uri=uri, experiment=experiment, tags=tags, why=f"of {reproduction}"), True
        return current(parent, uri=uri, experiment=experiment, tags=tags), False


def replace_if_gone(parent: Path, spool: Spool, server: Server) -> Spool:
    """`spool`, or a new parent where somebody deleted its run. Raises Unreachable."""
    run_id = spool.state["run_id"]
    if run_id is None or server.find_run(run_id) is not None:
        return spool
    state = spool.state
    why = f"run {run_id} is not in this store any more"
    return begin(parent, uri=state["uri"], experiment=state["experiment"], tags=state["tags"], why=why)


def settle(parent: Path, spool: Spool, server: Server) -> str | None:
    """Create the parent's run if the server has none yet, and note its id in the file. Raises Unreachable."""
    with spool.lock() as mine:
        if mine:
            drain(spool, server)
    _name(parent, spool)
    return spool.state["run_id"]


def close_parent(parent: Path, status: str, *, send: bool = True) -> None:
    """End the parent run that `parent` names: a stage ended with `status`; the next one opens it again.

    With `send` False, or a server that is down, only the files say so until the next delivery.
    """
    spool = read(parent)
    if spool is None:
        return
    _end(parent, spool, status)
    if not send:
        return
    try:
        if deliver(spool.directory):
            Outbox(parent).remove(spool.directory)
    except Unreachable as error:
        LOG.warning("parent run not closed on the server yet (`mae sync` does it): %s", error)


def sweep(server: Server, experiment: str) -> list[str]:
    """Close this machine's runs that still read RUNNING though their process is gone; returns their ids.

    Of stages in any working copy; what a killed one here left is delivered from its files besides.
    """
    host = machine.process_tags()["host"]
    swept: list[str] = []
    for run in server.running(server.experiment_id(experiment), host=host):
        if "parent.file" in run.data.tags or machine.is_alive(run.data.tags.get("process", "")):
            continue
        try:
            server.close(run.info.run_id, "KILLED")
        except Rejected as error:
            LOG.warning("run %s could not be closed: %s", run.info.run_id, error)
            continue
        swept.append(run.info.run_id)
    if swept:
        LOG.info("closed %d run(s) that an ended process left RUNNING: %s", len(swept), ", ".join(swept))
    return swept


def _opened(spool: Spool) -> Spool:
    """The parent RUNNING again, for one more stage."""
    if spool.state["status"] != "RUNNING":
        spool.state |= {"status": "RUNNING", "ended": None, "closed": False}
        spool.state["reopen"] = spool.state["run_id"] is not None
        spool.save()
    return spool


def _end(parent: Path, spool: Spool, status: str) -> None:
    spool.state |= {"status": status, "ended": now_ms(), "closed": False, "reopen": False}
    spool.save()
    Outbox(parent).add(spool.directory)


def _close_previous(parent: Path) -> None:
    """The parent before: one that still runs is a killed stage's. Files that are fully delivered go."""
    named = read(parent)
    if named is not None and named.state["status"] == "RUNNING":
        _end(parent, named, "KILLED")
    outbox = Outbox(parent).directories()
    for directory in parent.with_suffix(".d").glob("parent-*"):
        waiting = [spool for spool in map(Spool.open, outbox) if spool is not None]
        needed: set[Any] = {spool.state.get("parent") for spool in waiting} | set(map(str, outbox))
        if str(directory.absolute()) not in needed and (named is None or named.directory != directory):
            shutil.rmtree(directory, ignore_errors=True)


def _name(parent: Path, spool: Spool) -> None:
    keys = ("run_id", "uri", "experiment")
    write_json(parent, {"directory": str(spool.directory), **{key: spool.state[key] for key in keys}})
