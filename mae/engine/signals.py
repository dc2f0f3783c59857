"""SIGTERM and SIGINT as a request to stop at the next whole step."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from mae.stopping import SIGNALS

# A Ctrl-C reaches torchrun and its workers, and torchrun then signals the workers again.
_SAME_REQUEST_SECONDS = 1.0


class StopNow(BaseException):
    """A stop in a block that may be left at once; no `Exception`, so that no library takes it for its own."""


class StopRequest:
    """Inside `with StopRequest() as stop`, a first SIGTERM or SIGINT only makes `stop.requested` true.

    A later signal acts as it would without this class, so that an impatient user is obeyed at once. Signals
    within one second of the first are the same request, forwarded by a launcher. The block restores the
    former handlers. Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._at_once = False
        self._since = 0.0
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    @contextmanager
    def raised_at_once(self, where: bool = True) -> Iterator[None]:
        """Raise StopNow inside the block at a request, where nothing is lost by leaving it in the middle."""
        self._at_once = where
        try:
            if where and self.requested:
                raise StopNow
            yield
        finally:
            self._at_once = False

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.requested:
            self.requested, self._since = True, time.monotonic()
            if self._at_once:
                raise StopNow
        elif time.monotonic() - self._since > _SAME_REQUEST_SECONDS:
            self._restore()
            signal.raise_signal(number)
