"""From the files of a run to the tracking server: by its own process now, by a later stage or `mae sync`."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mae.files import sync
from mae.tracking import parent
from mae.tracking.locks import InUse, hold, one_at_a_time
from mae.tracking.run_files import METRICS, Cursor, RunFiles, now_ms
from mae.tracking.server import METRICS_PER_CALL, Rejected, Server, Unreachable

LOG = logging.getLogger("mae.tracking")
TURN_S = 10.0  # for another stage that is calling the server for the parent
ASIDE = "-unsent-"  # in the name of a directory whose run made room for a new one


class Sender:
    """The sender of one run's files to a server.

    The cursor moves once the server has answered. What is sent twice, because an answer was lost, is stored
    once: runs are found again by their key, and a value by its step and time.
    """

    def __init__(self, files: RunFiles, server: Server) -> None:
        self.files, self.server = files, server
        self._parent_id: str | None = None
        self._found = False

    def send(self, *, limit_s: float = math.inf) -> None:
        """Send everything that the server has not acknowledged. What it rejects is dropped and named.

        Raises Unreachable, also where the server does not take everything in `limit_s` seconds; what was sent
        until then is noted.
        """
        files, server, began = self.files, self.server, time.monotonic()
        if not self._found:
            self._find_run()
        sync(files.metrics)  # after a power failure, the server has no line that is missing here
        for end, lines in _calls(files.unsent()):
            if time.monotonic() - began > limit_s:
                raise Unreachable(f"{server.address} is slow: it gets the rest later")
            run_id = str(files.cursor.run_id)
            try:
                server.perform(run_id, lines, copies=files.copies, parent_id=self._parent_id)
            except Rejected as error:
                LOG.warning("not taken by the tracking server: %s; it stays in %s", error, files.metrics)
            files.save(replace(files.cursor, sent=end))
            if lines[0].get("op") == "artifact":
                shutil.rmtree(files.copies / str(lines[0]["copy"]), ignore_errors=True)

    def _find_run(self) -> None:
        """Find the run and its parent on the server, once in a process; they are created where missing."""
        identity, cursor = self.files.identity, self.files.cursor
        if identity.parent is not None and identity.parent_file is not None:
            turn = one_at_a_time(Path(identity.parent_file).with_suffix(".server"), patience_s=TURN_S)
            with self.server.calls(), turn:  # stages that run side by side create one parent
                self._parent_id = self.server.ensure_run(identity.experiment, identity.parent)
        if cursor.run_id is not None:
            found = self.server.find_run(cursor.run_id)
            if found is None:
                LOG.warning("run %s is not in this store any more: going on in a new run", cursor.run_id)
                cursor = Cursor()
        if cursor.run_id is None:
            run_id = self.server.ensure_run(identity.experiment, identity.run, self._parent_id)
            cursor = replace(cursor, run_id=run_id)
        self.files.save(cursor)
        self._found = True


def _calls(lines: Iterator[tuple[int, dict[str, Any]]]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Group lines by calls: one event, or as many metrics as a call takes; with the offset after them."""
    group: list[dict[str, Any]] = []
    size, end = 0, 0
    for offset, line in lines:
        if group and ("op" in line or "op" in group[0] or size + len(line) > METRICS_PER_CALL):
            yield end, group
            group, size = [], 0
        group.append(line)
        size, end = size + len(line), offset
    if group:
        yield end, group


def deliver(directory: Path, *, uri: str | None = None, limit_s: float = math.inf) -> bool:
    """Send what a run's directory still holds for its server; False where its process is still at work.

    A run whose process was killed is closed as KILLED.

    Args:
        directory: a run's directory, with metrics.jsonl.
        uri: another store than the run was started for, e.g. when the server moved.
        limit_s: seconds that a slow server has for it.

    Raises Unreachable when the server does not answer (nothing is lost), ValueError where there is no run.
    """
    files = None
    if (directory / METRICS).exists():
        try:
            held = hold(directory, f"a delivery by process {os.getpid()}", patience_s=0)
        except InUse:
            return False
        try:
            files = RunFiles.open(directory)
            if files is not None and files.running:
                files.event("end", status="KILLED", time=now_ms())
            if files is not None and files.has_backlog():
                Sender(files, Server(uri or files.identity.uri)).send(limit_s=limit_s)
        finally:
            held.release()
    if files is None:
        raise ValueError(f"{directory}: holds no run (no start in its {METRICS})")
    return True


def deliver_all(parent_file: Path, *, uri: str | None = None, limit_s: float = math.inf) -> list[Path]:
    """Deliver every run in the outbox of `parent_file`; returns the directories with a backlog left.

    Stops at the first server that does not answer, and after `limit_s` seconds.
    """
    left: list[Path] = []
    end, down = time.monotonic() + limit_s, False
    for entry, directory in parent.outbox(parent_file):
        down = down or time.monotonic() > end
        try:
            done = not down and deliver(directory, uri=uri, limit_s=end - time.monotonic())
        except ValueError as error:
            LOG.warning("nothing to deliver: %s", error)
            done = True
        except Unreachable as error:
            LOG.warning("tracking server unreachable: %s", error)
            done, down = False, True
        if not done:
            left.append(directory)
            continue
        if ASIDE in directory.name:
            shutil.rmtree(directory, ignore_errors=True)
            Path(f"{directory}.lock").unlink(missing_ok=True)
        entry.unlink(
            missing_ok=True
        )  # the last: a kill before it leaves work that the next delivery finishes
    return left
