"""Run a command so that none of its processes outlives the caller.

    python -m pipelines.guard --grace 60 [--limit 3600] -- COMMAND ...

The guard ends the command, and all that it started, when standard input reaches its end (the process at the
other end is gone, `kill -9` included), on SIGTERM or SIGINT, and past the limit. A stage follows its `dvc`
by itself; other commands, and the children of a stage that was killed, do not. Exit status: the command's
(128 + n where signal n ended it), or 124 past the limit. Imports the standard library only, and psutil to end
processes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

EXIT_LIMIT = 124  # as timeout(1)
PREFIX = "guard: "  # of the line that says why the guard ends the command
LAST_WORDS_S = 5.0  # from SIGTERM to SIGKILL, once the grace is over
POLL_S = 0.2
PR_SET_CHILD_SUBREAPER = 36


def main(argv: list[str] | None = None) -> int:
    """Run the command under guard; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="pipelines.guard", description="Run a command that leaves no process."
    )
    parser.add_argument("--grace", type=float, required=True, help="seconds from SIGINT to SIGTERM")
    parser.add_argument("--limit", type=float, help="seconds that the command may take")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args(argv)
    return _Guard(arguments.grace, arguments.limit).run(arguments.command)


class _Guard:
    def __init__(self, grace: float, limit: float | None) -> None:
        self._grace, self._limit = grace, limit
        self._woken, self._waker = os.pipe()
        self._reason = ""
        self._status: int | None = None  # of the command, once it ended

    def run(self, command: list[str]) -> int:
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler is needed so that it wakes us
        _adopt_orphans()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                close_fds=False,  # so that the last process holds the locks that we inherited
            )
        except OSError as error:
            _say(f"{command[0]}: {error.strerror}")
            return 127
        assert process.stdout is not None
        forwarding = threading.Thread(target=_forward, args=(process.stdout.fileno(),), daemon=True)
        forwarding.start()
        over = self._watch(process.pid)
        if self._reason:
            _say(f"{self._reason}: ending {command[0]}")
            self._signal_group(process.pid)
            self._reap(process.pid, time.monotonic() + self._grace)
        self._end_the_rest(process.pid)
        forwarding.join(LAST_WORDS_S)
        # So that Popen does not wait for, and warn of, a process that is reaped already.
        process.returncode = self._status = 1 if self._status is None else self._status
        return EXIT_LIMIT if over else self._status

    def _note(self, number: int, _: object) -> None:
        self._reason = self._reason or f"got {signal.Signals(number).name}"

    def _watch(self, child: int) -> bool:
        """Wait until the command has ended or must be ended; return True where it took too long."""
        deadline = None if self._limit is None else time.monotonic() + self._limit
        while not self._reason:
            self._collect(child)
            if self._status is not None:
                return False
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                self._reason = f"the limit of {self._limit:g} s is over"
                return True
            ready = select.select([0, self._woken], [], [], left)[0]
            if self._woken in ready:
                os.read(self._woken, 4096)
            # Not sys.stdin: its buffer would hide the end from select.
            if 0 in ready and os.read(0, 4096) == b"":
                self._reason = "the process at the other end of standard input is gone"
        return False

    def _collect(self, child: int) -> bool:
        """Reap processes that have ended; return True where some are left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                self._status = code if code >= 0 else 128 - code

    def _reap(self, child: int, deadline: float) -> bool:
        """Wait for all processes to end; return False at `deadline` (of the monotonic clock)."""
        while self._collect(child):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if self._woken in select.select([self._woken], [], [], min(left, POLL_S))[0]:
                os.read(self._woken, 4096)
        return True

    def _signal_group(self, child: int) -> None:
        """Interrupt as Ctrl-C does: the stage saves and ends, and dvc, which waits for it, ends cleanly."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGINT)

    def _end_the_rest(self, child: int) -> None:
        """End the processes that are left, in sessions of their own too: SIGTERM, then SIGKILL."""
        for process in self._left(child):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
        self._reap(child, time.monotonic() + min(self._grace, LAST_WORDS_S))
        while left := self._left(child):
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            self._reap(child, time.monotonic() + POLL_S)

    def _left(self, child: int) -> list[psutil.Process]:
        if not self._collect(child):
            return []
        import psutil

        return psutil.Process().children(recursive=True)


def _forward(output: int) -> None:
    """Copy the output of the command to standard output, and drop it once nobody reads there.

    So a broken pipe does not end a stage that logs while it saves.
    """
    reading = True
    while text := os.read(output, 65536):
        try:
            while reading and text:
                text = text[os.write(1, text) :]
        except OSError:
            reading = False


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the reader of standard error may be gone, too
        os.write(2, f"{PREFIX}{text}\n".encode())


def _adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (Linux), so that all stay known."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
