"""Locks between processes. They end with the process that holds them, whatever its forked workers do."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

LOG = logging.getLogger("mae.tracking")


class InUse(RuntimeError):
    """Another process works in a run's directory."""


def hold(directory: Path, who: str, *, patience_s: float) -> FileLock:
    """Take a run's directory for one process, on any machine or pod; `release` gives it back.

    Waits for a process that ends: a file server may take a minute to notice that one is dead.
    Raises InUse. A file system without locks lets everybody in.
    """
    path = Path(f"{directory}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, fallback_to_soft=False)  # a marker file would outlive a killed process
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if patience_s:
                holder = _holder(path)
                LOG.warning("%s is in use by %s: waiting for %.0f s at most", directory, holder, patience_s)
            lock.acquire(timeout=patience_s, poll_interval=min(0.5, patience_s))
        path.write_text(who)  # into the locked file itself: a renamed one would be another file, and unlocked
    except Timeout:
        raise InUse(f"{directory} is in use by {_holder(path)}: wait until it has ended, or end it") from None
    except OSError as error:
        LOG.warning("%s cannot be locked: %s", directory, error)
    return lock


@contextlib.contextmanager
def one_at_a_time(file: Path, *, patience_s: float = 60.0) -> Iterator[None]:
    """Wait until no other process is inside with this file. Raises filelock.Timeout."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock", timeout=patience_s):
        yield


def _holder(path: Path) -> str:
    return path.read_text() or "another process"
