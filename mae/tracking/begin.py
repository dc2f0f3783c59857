"""How a stage's run begins: fresh, or going on after a resume; under the parent run; never held up."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from pathlib import Path
from typing import Any

from mae.tracking import machine, parents
from mae.tracking.delivery import deliver, deliver_all, drain
from mae.tracking.holding import hold
from mae.tracking.run import Run
from mae.tracking.server import Rejected, Server, Unreachable
from mae.tracking.spool import COPIES, METRICS, REWOUND, STATE, Outbox, Spool

LOG = logging.getLogger("mae.tracking")
CATCH_UP_S = 10.0  # at most this long for what earlier stages could not deliver
HELD_S = 120.0  # for a process that is ending in the same directory


def start(
    stage: str,
    *,
    uri: str,
    experiment: str,
    directory: Path,
    params: dict[str, Any],
    tags: dict[str, Any] | None = None,
    parent_file: Path | None = None,
    new_parent: bool = False,
    reproduction: str | None = None,
    run_id: str | None = None,
    enabled: bool = True,
    system_metrics: bool = True,
) -> Run:
    """Open a stage's run; never fails or waits long for the server's sake.

    Args:
        stage: the run's name. experiment: its name; created where missing.
        uri: sqlite:///mlflow.db, http://host:port ...; ValueError for what MLflow 3 does not take.
        directory: where metrics.jsonl and tracking.json of this run live; InUse where another process is at
            work there: two that train the same would spoil each other's files.
        params: nested params of the stage. tags: lineage and the like.
        parent_file: the small JSON file that names the parent run of this `dvc repro`.
        new_parent: begin a new parent there (the first stage), and sweep what earlier ones left RUNNING.
        reproduction: a name common to stages run side by side: the first begins the parent, not `new_parent`.
        run_id: the id (`Run.id`) of the run to go on with after a resume; call `rewind(step)` then.
        enabled: False on ranks other than 0, whose run does nothing.
        system_metrics: sample the machine's load every 10 s along with `log`, as `system/...`.
    """
    if not enabled:
        return Run(None, None)
    server, directory = Server(uri), Path(directory).absolute()
    texts = {key: str(value) for key, value in (tags or {}).items()}
    identity: dict[str, Any] = {"uri": server.uri, "experiment": experiment}
    above = None
    if parent_file is not None:
        lineage = identity | {"tags": {**machine.process_tags(), **texts, "stage": "repro"}}
        above, new_parent = _above(parent_file, lineage, reproduction, new_parent)
    identity["tags"] = {**machine.process_tags(), **texts, "stage": stage}
    tags = identity["tags"]
    held = hold(directory, f"process {tags['pid']} of {tags['host']}", patience_s=HELD_S)
    spool = _spool(directory, stage, identity, run_id, parent_file)
    spool.state |= {"parent": str(above.directory) if above else None, "parent_run_id": None}
    if parent_file is not None:
        Outbox(parent_file).add(directory)
    run = Run(spool, server, parent_file, held)
    run.params(params)
    server.load()
    began = time.monotonic()
    try:
        _reach(spool, server, above, parent_file, new_parent)
    except (Unreachable, Rejected) as error:
        run.unreachable(error, time.monotonic() - began)
    if system_metrics:
        run.attach(machine.SystemMetrics())
    LOG.info("%s is tracked at %s; metrics also in %s", stage, run.url, spool.metrics)
    return run


def _above(
    parent_file: Path, lineage: dict[str, Any], reproduction: str | None, new_parent: bool
) -> tuple[Spool, bool]:
    """The parent run, and whether it begins with this stage."""
    if reproduction is not None:
        return parents.shared(parent_file, reproduction, **lineage)
    if new_parent:
        return parents.begin(parent_file, **lineage, why="a new `dvc repro`"), True
    return parents.current(parent_file, **lineage), False


def _reach(
    spool: Spool, server: Server, above: Spool | None, parent_file: Path | None, new_parent: bool
) -> None:
    """Everything at the start that needs the server; raises Unreachable at the first call that fails."""
    if above is not None and parent_file is not None:
        above = parents.replace_if_gone(parent_file, above, server)
        spool.state["parent"] = str(above.directory)
        parents.settle(parent_file, above, server)
    drain(spool, server)
    if above is not None and parent_file is not None:
        if new_parent:
            parents.sweep(server, spool.state["experiment"])
        deliver_all(parent_file, limit_s=CATCH_UP_S)


def _spool(
    directory: Path, stage: str, identity: dict[str, Any], run_id: str | None, parent_file: Path | None
) -> Spool:
    """The files of the run: those of the run that `run_id` names, else new ones (the old are delivered)."""
    old = Spool.open(directory)
    if run_id is None:
        if old is not None and (old.has_backlog() or old.state["status"] == "RUNNING"):
            _set_aside(old, parent_file)
        return Spool.new(directory, stage=stage, **identity)
    same_store = old is not None and all(old.state[key] == identity[key] for key in ("uri", "experiment"))
    if old is not None and old.known_as(run_id) and same_store:
        old.state |= {"status": "RUNNING", "ended": None, "closed": False, "tags": identity["tags"]}
        old.state["reopen"] = old.state["run_id"] is not None
        old.rewind(sys.maxsize)  # drops a half-written last line; saves
        return old
    # The directory does not know the run (it was moved, or the store is another one): what the file holds is
    # history that the run, if the store has it, was told before.
    history = (directory / METRICS).read_bytes() if (directory / METRICS).exists() else b""
    spool = Spool.new(directory, stage=stage, **identity)
    history = history[: history.rfind(b"\n") + 1]
    spool.metrics.write_bytes(history)
    if run_id.startswith("offline-"):
        LOG.warning("run %s never reached this store: going on in a new run", run_id)
    else:
        spool.state |= {"run_id": run_id, "reopen": True, "sent": len(history)}
    spool.save()
    return spool


def _set_aside(old: Spool, parent_file: Path | None) -> None:
    """Before a fresh run takes the directory: deliver the old one, or move its files to where it can be."""
    with contextlib.suppress(Unreachable):
        if deliver(old.directory):
            return
    aside = old.directory / f"unsent-{old.state['key'][:8]}"
    aside.mkdir(exist_ok=True)
    for name in (METRICS, STATE, COPIES, REWOUND):
        with contextlib.suppress(FileNotFoundError):
            (old.directory / name).replace(aside / name)
    if parent_file is not None:
        Outbox(parent_file).add(aside)
    LOG.warning("an earlier run of this stage is not delivered yet; its files are in %s", aside)
