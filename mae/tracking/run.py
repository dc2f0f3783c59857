"""A stage's run: the object that everything measured goes through."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock

from mae.files import DiskFull
from mae.tracking import machine
from mae.tracking import parent as parents
from mae.tracking.locks import hold
from mae.tracking.names import flatten, metric_name
from mae.tracking.run_files import (
    METRICS,
    OFFLINE,
    Cursor,
    Identity,
    RunFiles,
    RunInfo,
    now_ms,
)
from mae.tracking.sender import ASIDE, Sender, deliver_all
from mae.tracking.server import Rejected, Server, Unreachable

LOG = logging.getLogger("mae.tracking")
FLUSH_EVERY_S = 10.0
WAIT_S = 60.0  # after a failure, before the server is tried again
# What a run waits in all for a server that accepts and does not answer: seconds, and a share of its time.
PATIENCE_S, PATIENCE_SHARE = 6.0, 0.005
CATCH_UP_S = 10.0  # at most this long for what earlier stages could not deliver
# A server that answers, but slowly, gets the rest later, and at most this share of a run's time.
SEND_S, SEND_SHARE = 30.0, 0.05
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
        directory: the run's own, for its files; InUse where another process is at work there: two that train
            the same would overwrite each other's files.
        params: nested params of the stage. tags: lineage and the like.
        parent_file: the small JSON file that names the parent run of this `dvc repro`.
        new_parent: begin a new parent there (the first stage).
        reproduction: a name common to stages run side by side: the first begins the parent, not `new_parent`.
        run_id: the id (`Run.id`) of the run that continues after a resume.
        enabled: False on ranks other than 0, whose run does nothing.
        system_metrics: sample the machine's load every 10 s along with `log`, as `system/...`.
    """
    if not enabled:
        return Run(None)
    server, directory = Server(uri), Path(directory).absolute()
    own = {key: str(value) for key, value in (tags or {}).items()}
    texts = machine.process_tags() | own | {"stage": stage, machine.SOURCE_TAG: f"mae {stage}"}
    held = hold(directory, f"process {texts['pid']} of {texts['host']}", patience_s=HELD_S)
    identity = Identity(server.address, experiment, RunInfo(uuid.uuid4().hex, stage, now_ms(), texts))
    if parent_file is not None:
        above = parents.join(parent_file, texts, reproduction, new_parent)
        identity = replace(identity, parent=above, parent_file=str(parent_file.absolute()))
    files = _resumed(directory, identity, run_id) if run_id else _fresh(directory, identity, parent_file)
    if parent_file is not None:
        parents.post(parent_file, files)
    run = Run(Sender(files, server), parent_file, held)
    run.params(params)
    if run_id:
        run.tags(texts)
    server.load()
    if run.flush(now=True) and parent_file is not None:
        deliver_all(parent_file, limit_s=CATCH_UP_S)
    if system_metrics:
        run.system = machine.SystemMetrics()
    LOG.info("%s is tracked at %s; metrics also in %s", stage, run.url, files.metrics)
    return run


def _fresh(directory: Path, identity: Identity, parent_file: Path | None) -> RunFiles:
    """Make files for a new run; the directory of an earlier, undelivered one gets another name."""
    old = RunFiles.open(directory)
    if old is not None and old.has_backlog():
        aside = directory.with_name(directory.name + ASIDE + old.identity.run.key[:8])
        if parent_file is not None:
            parents.post(parent_file, old, aside)
        directory.rename(aside)
        LOG.warning("an earlier run of this stage is not delivered yet; its files are in %s", aside)
    return RunFiles.start(directory, identity)


def _resumed(directory: Path, identity: Identity, run_id: str) -> RunFiles:
    """Open the files of the resumed run, by its id on a server or that from before one was reached."""
    old = RunFiles.open(directory)
    if old is not None and old.known_as(run_id):
        before, cursor = old.identity.run, old.cursor
        run = replace(identity.run, key=before.key, started=before.started)
        identity = replace(identity, run=run)
    elif run_id.startswith(OFFLINE):
        cursor = Cursor()
    else:  # another version wrote the directory, or it was lost: the server had the lines that are here
        metrics = directory / METRICS
        cursor = Cursor(run_id, metrics.stat().st_size if metrics.exists() else 0)
    return RunFiles.start(directory, identity, cursor)


class Run:
    """One stage's run. Nothing here raises because of the server, and every call returns soon.

    The server is called from the caller's own thread, within bounds: with a thread next to the training, the
    loader could not fork its workers. Used as a context manager it finishes as FINISHED, as KILLED on an
    interrupt, as FAILED on an error.
    """

    def __init__(
        self, sender: Sender | None, parent_file: Path | None = None, held: FileLock | None = None
    ) -> None:
        self._sender, self._parent_file, self._held = sender, parent_file, held
        self._files = sender.files if sender else None
        self.system: machine.SystemMetrics | None = None
        self._last_flush, self._last_step, self._finished = time.monotonic(), 0, False
        self._flush_every_s = FLUSH_EVERY_S
        self._began, self._next_try, self._wasted_s = time.monotonic(), 0.0, 0.0

    @property
    def id(self) -> str:
        """MLflow's run id; `offline-...` until a server was reached. `start` takes either to resume."""
        return self._files.id if self._files else ""

    @property
    def url(self) -> str:
        """The run's page, or its store and id."""
        return self._sender.server.location(self._sender.files.cursor.run_id) if self._sender else ""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record `values` (numbers, 0-dim tensors) at `step`: in the file now, on the server within ~10 s.

        A value that the run has at this step, from before it was resumed, is not recorded again.
        """
        if self._files is None:
            return
        self._files.log(step, {metric_name(key): value for key, value in values.items()})
        self._last_step = step
        if self.system is not None and self.system.due():
            self._files.log(step, self.system.sample())
        if time.monotonic() - self._last_flush >= self._flush_every_s:
            self.flush()
            took = time.monotonic() - self._last_flush
            self._flush_every_s = max(FLUSH_EVERY_S, took / SEND_SHARE)

    def params(self, values: dict[str, Any]) -> None:
        """Record params; nested ones become `a.b.c`."""
        self._event("params", values=flatten(values))

    def tags(self, values: dict[str, Any]) -> None:
        self._event("tags", values={key: str(value) for key, value in values.items()})

    def dataset(self, name: str, *, digest: str, source: str, context: str) -> None:
        """Record a data set as the run's input: `digest` of its index, `context` such as "training"."""
        self._event("dataset", name=name, digest=digest, source=source, context=context)

    def picture(self, path: Path) -> None:
        """Attach a picture file (MLflow shows png and jpg)."""
        self.artifact(path, "pictures")

    def artifact(self, path: Path, folder: str = "") -> None:
        """Attach a file or a folder as it is now; ValueError if it is not there."""
        if self._files is None:
            return
        if not Path(path).exists():
            raise ValueError(f"{path}: no such file to attach to the run")
        self._files.artifact(Path(path), folder)

    def flush(self, *, now: bool = False) -> bool:
        """Send what is waiting, unless the server failed less than a minute ago; True if nothing is left."""
        if self._sender is None:
            return True
        self._last_flush = time.monotonic()
        patience = PATIENCE_S + PATIENCE_SHARE * (self._last_flush - self._began)
        if self._wasted_s > patience or (not now and self._last_flush < self._next_try):
            return False
        sender = self._sender
        return self.attempt(lambda: sender.send(limit_s=SEND_S))

    def attempt(self, act: Callable[[], None]) -> bool:
        """Call the server; return True if it answered."""
        began = time.monotonic()
        try:
            act()
        except (Unreachable, Rejected) as error:
            self._next_try = time.monotonic() + WAIT_S
            self._wasted_s += time.monotonic() - began
            LOG.warning("tracking server unreachable, going on without it: %s", error)
            return False
        return True

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: FINISHED, FAILED or KILLED. A second call does nothing."""
        if self._files is None or self._finished:
            return
        self._finished = True
        try:
            self._end(status)
        except DiskFull as error:
            if status == "FINISHED":
                raise
            LOG.warning("%s", error)  # it must not hide why the run ended
        finally:
            if self._held is not None:
                self._held.release()

    def _end(self, status: str) -> None:
        assert self._files is not None
        if self.system is not None:
            self._files.log(self._last_step, self.system.sample())
        self._event("end", status=status, time=now_ms())
        if not self.flush(now=True):
            LOG.warning(
                "not everything reached %s: all metrics are in %s; `mae sync` sends the rest",
                self.url,
                self._files.metrics,
            )
        elif self._parent_file is not None:
            parents.unpost(self._parent_file, self._files)

    def _event(self, op: str, **values: Any) -> None:
        if self._files is not None:
            self._files.event(op, **values)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ordinary = kind is not None and issubclass(kind, Exception)
        self.finish("FINISHED" if kind is None else "FAILED" if ordinary else "KILLED")
