"""A stage's run: the object that everything measured goes through."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from mae.tracking import machine, parents
from mae.tracking.delivery import drain
from mae.tracking.names import flatten, metric_name
from mae.tracking.server import Server, Unreachable
from mae.tracking.spool import Outbox, Spool, now_ms

LOG = logging.getLogger("mae.tracking")
FLUSH_EVERY_S = 10.0
FLUSH_EVERY_LINES = 500
WAIT_S = 60.0  # after a failure, before the server is tried again
# What a run waits in all for a server that accepts and does not answer: seconds, and a share of its time.
PATIENCE_S, PATIENCE_SHARE = 6.0, 0.005


class Run:
    """One stage's run. Nothing here raises because of the server, and every call returns soon.

    Used as a context manager it finishes as FINISHED, as KILLED on an interrupt, as FAILED on an error.
    """

    def __init__(
        self,
        spool: Spool | None,
        server: Server | None,
        parent: Path | None = None,
        held: int | None = None,
    ) -> None:
        self._spool, self._server, self._parent = spool, server, parent
        self._held = held  # what `hold` gave: open until the run, or the process, ends
        self._system: machine.SystemMetrics | None = None
        self._began, self._next_try, self._wasted_s = time.monotonic(), 0.0, 0.0
        self._last_flush, self._lines, self._last_step = time.monotonic(), 0, 0
        self._finished = False

    @property
    def enabled(self) -> bool:
        """False on every rank but the first: such a run does nothing at all."""
        return self._spool is not None

    @property
    def id(self) -> str:
        """MLflow's run id; `offline-...` until a server was reached. Either may be given back to `start`."""
        return self._spool.id if self._spool else ""

    @property
    def url(self) -> str:
        """Where a person finds the run."""
        return self._server.location(self._spool.state) if self._spool and self._server else ""

    @property
    def metrics_file(self) -> Path | None:
        return self._spool.metrics if self._spool else None

    def log(self, step: int, values: dict[str, float]) -> None:
        """Record `values` (numbers, 0-dim tensors) at `step`: in the file now, on the server within ~10 s."""
        if self._spool is None:
            return
        self._spool.append(step, {metric_name(key): value for key, value in values.items()})
        self._lines, self._last_step = self._lines + 1, step
        if self._system is not None and self._system.due():
            self._spool.append(step, self._system.sample())
        if self._lines >= FLUSH_EVERY_LINES or time.monotonic() - self._last_flush >= FLUSH_EVERY_S:
            self.flush()

    def rewind(self, step: int) -> None:
        """After a resume at `step`: forget what was logged beyond it. What repeats is not stored twice."""
        if self._spool is not None:
            self._spool.rewind(step)

    def params(self, values: dict[str, Any]) -> None:
        """Record params; nested ones become `a.b.c`."""
        self._push(op="params", values=flatten(values))

    def tags(self, values: dict[str, Any]) -> None:
        self._push(op="tags", values={key: str(value) for key, value in values.items()})

    def dataset(
        self, name: str, *, digest: str, source: str, context: str, profile: dict[str, Any] | None = None
    ) -> None:
        """Record a data set as the run's input: `digest` of its index, `context` such as "training"."""
        self._push(op="dataset", name=name, digest=digest, source=source, context=context, profile=profile)

    def picture(self, path: Path) -> None:
        """Attach a picture file (MLflow shows png and jpg)."""
        self.artifact(path, "pictures")

    def artifact(self, path: Path, folder: str = "") -> None:
        """Attach a file or a folder; ValueError if it is not there."""
        if self._spool is None:
            return
        if not Path(path).exists():
            raise ValueError(f"{path}: no such file to attach to the run")
        self._push(op="artifact", path=str(Path(path).absolute()), folder=folder)
        self.flush()
        self._spool.keep_copies()

    def text(self, text: str, file: str) -> None:
        """Attach `text` as the artifact `file`."""
        self._push(op="text", text=text, file=file)

    def flush(self, *, now: bool = False) -> bool:
        """Send what is waiting, unless the server failed less than a minute ago; whether nothing is left."""
        if self._spool is None or self._server is None:
            return True
        self._last_flush, self._lines = time.monotonic(), 0
        if self._out_of_patience() or (not now and time.monotonic() < self._next_try):
            return False
        began = time.monotonic()
        try:
            drain(self._spool, self._server)
        except Unreachable as error:
            self.unreachable(error, time.monotonic() - began)
            return False
        self._next_try = 0.0
        return True

    def unreachable(self, error: Exception, seconds: float) -> None:
        """Note a failure that took `seconds`."""
        self._wasted_s += seconds
        self._next_try = time.monotonic() + WAIT_S
        LOG.warning("tracking server unreachable, going on without it: %s", error)

    def _out_of_patience(self) -> bool:
        return self._wasted_s > PATIENCE_S + PATIENCE_SHARE * (time.monotonic() - self._began)

    def finish(self, status: str = "FINISHED") -> None:
        """End the run: FINISHED, FAILED or KILLED. A second call does nothing."""
        if self._spool is None or self._finished:
            return
        self._finished = True
        if self._system is not None:
            self._spool.append(self._last_step, self._system.sample())
        self._spool.state |= {"status": status, "ended": now_ms(), "closed": False}
        self._spool.save()
        delivered = self.flush(now=True)
        if delivered and self._parent is not None:
            Outbox(self._parent).remove(self._spool.directory)
        if not delivered:
            self._spool.keep_copies()
            metrics, address = self._spool.metrics, self._server.location(self._spool.state)  # type: ignore
            LOG.warning(
                "not everything reached %s: all metrics are in %s; `mae sync` sends", address, metrics
            )
        if self._parent is not None:
            parents.close_parent(self._parent, status, send=delivered)
        if self._held is not None:
            os.close(self._held)

    def attach(self, system: machine.SystemMetrics | None) -> None:
        """Sample the machine's load along with `log`."""
        self._system = system

    def _push(self, **op: Any) -> None:
        if self._spool is not None:
            self._spool.push(**op)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ordinary = kind is not None and issubclass(kind, Exception)
        self.finish("FINISHED" if kind is None else "FAILED" if ordinary else "KILLED")
