"""The stop of a process: on a signal, with the process that started it, and within a time.

A signal's Python handler runs only between two steps of the interpreter. While the main thread is in C++ for
minutes, as in a compilation, a thread of this module still notices it, and ends the process at the deadline.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

SIGNALS = (signal.SIGTERM, signal.SIGINT)
THREAD = "StopWatcher"  # it waits for the system alone and holds no lock, so that forks beside it are safe
EXIT_STOPPED = 75
GRACE_S = 60.0  # until `obeyed` is told another one
DVC, TORCHRUN = "DVC_ROOT", "TORCHELASTIC_RUN_ID"  # in the environment of what they start
_DONE = b"\0"


class Orphaned(RuntimeError):
    """The `dvc` that started a stage had ended before the stage began."""


class Watch:
    """The watch over the block `obeyed`. grace: seconds from the first signal to the hard end."""

    def __init__(self) -> None:
        self.grace = GRACE_S
        self._deadline: float | None = None
        self._noticed = False
        self._followed: dict[int, int] = {}
        self._woken = -1

    def notice(self) -> None:
        """Say that the stop is being obeyed: the process saves now, for as long as that takes."""
        self._noticed = True

    @contextmanager
    def running(self) -> Iterator[None]:
        """Watch in a thread of its own, until the block ends."""
        self._followed = {descriptor: pid for pid in ancestors() if (descriptor := _pidfd(pid)) is not None}
        self._woken, waker = os.pipe()
        os.set_blocking(waker, False)
        former = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(former)
            os.write(waker, _DONE)
            thread.join()
            for descriptor in (self._woken, waker, *self._followed):
                os.close(descriptor)

    def _run(self) -> None:
        followed = set(self._followed)
        while True:
            left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            ready = select.select([self._woken, *followed], [], [], left)[0]
            numbers = os.read(self._woken, 4096) if self._woken in ready else b""
            if _DONE in numbers:
                return
            if gone := followed.intersection(ready):
                followed = set()  # the others of the chain end with it
                _say(f"process {self._followed[gone.pop()]}, which started this one, is gone: stopping")
                os.kill(os.getpid(), signal.SIGTERM)
            if self._deadline is None and any(number in SIGNALS for number in numbers):
                self._deadline = time.monotonic() + self.grace
            if self._deadline is not None and time.monotonic() >= self._deadline:
                if not self._noticed:
                    _say(f"no end of this step within {self.grace:g} s of the stop (flows.grace): ended now")
                    os._exit(EXIT_STOPPED)
                self._deadline = None


_watch: Watch | None = None


@contextmanager
def obeyed() -> Iterator[Watch]:
    """Stop this process in the block: SIGTERM as Ctrl-C does, and both when DVC or torchrun is gone.

    What does not end within the grace is ended hard, unless it says that it is about to (`notice`). A process
    that somebody else started, by nohup for example, outlives its parent. Outside the main thread, where
    Python allows no handlers, it does nothing. Raises: Orphaned.
    """
    global _watch
    watch = Watch()
    if threading.current_thread() is not threading.main_thread():
        yield watch
        return
    former, above = signal.getsignal(signal.SIGTERM), _watch
    if former is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    _watch = watch
    try:
        with watch.running():
            yield watch
    finally:
        _watch = above
        signal.signal(signal.SIGTERM, signal.SIG_DFL if former is None else former)


def notice() -> None:
    """Say that the stop is being obeyed, where this process is watched."""
    if _watch is not None:
        _watch.notice()


def ancestors() -> list[int]:
    """List the processes to follow: torchrun, and all from the parent up to the `dvc` that began the stage.

    DVC starts a stage through a shell, which may stay between the two. DVC itself is the first that lacks the
    variable that it sets. Raises: Orphaned.
    """
    import psutil

    found = [os.getppid()] if TORCHRUN in os.environ else []
    if DVC not in os.environ:
        return found
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process().parents():
            if process.pid == 1 and not found and not re.search("dvc|python", " ".join(process.cmdline())):
                raise Orphaned("the `dvc` that started this stage is gone; run it again")
            found.append(process.pid)
            if DVC not in process.environ():
                break
    return found


def end_with_parent() -> None:
    """End this worker process as soon as its parent has ended."""
    descriptor = _pidfd(os.getppid())
    if descriptor is not None:

        def wait(descriptor: int = descriptor) -> None:
            select.select([descriptor], [], [])
            os._exit(1)

        threading.Thread(target=wait, name=THREAD, daemon=True).start()


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Start processes in this block, a fork server too, with SIGTERM and SIGINT blocked."""
    resource_tracker.ensure_running()  # started later, it would unblock them again
    former = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _pidfd(pid: int) -> int | None:
    """Open a process to wait for its end; None where the system cannot (it is not Linux)."""
    try:
        return os.pidfd_open(pid) if sys.platform == "linux" else None
    except OSError:
        return None


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the reader may be gone with the parent
        os.write(2, f"mae: {text}\n".encode())
