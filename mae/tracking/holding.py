"""Who is at work in a run's directory: POSIX locks, which end with their process whatever its children do."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

LOG = logging.getLogger("mae.tracking")
HOLDER = "process.lock"


class InUse(RuntimeError):
    """Another process is at work in a run's directory."""


def hold(directory: Path, who: str, *, patience_s: float) -> int:
    """A descriptor whose lock tells every process, on whatever machine or in whatever pod, that we live.

    Waits for a process that ends, saying so: a file server may take a minute to notice that one is dead.
    Raises InUse. A file system without locks is taken at its word.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor, deadline, waiting = os.open(directory / HOLDER, os.O_CREAT | os.O_RDWR), None, ""
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            deadline = deadline or time.monotonic() + patience_s
            holder = (directory / HOLDER).read_text() or "another process"
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise InUse(
                    f"{directory} is in use by {holder}: wait until it has ended, or end it"
                ) from None
            if holder != waiting:
                LOG.warning("%s is in use by %s: waiting for %.0f s at most", directory, holder, patience_s)
            waiting = holder
            time.sleep(min(1.0, patience_s))
            continue
        except OSError:
            return descriptor
        os.ftruncate(descriptor, 0)
        os.write(descriptor, who.encode())
        return descriptor


def is_held(directory: Path) -> bool:
    """Whether another process holds the directory (its own must not ask: it would lose its lock)."""
    with (directory / HOLDER).open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process is inside with this (lock) file. Forked workers do not inherit it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield
