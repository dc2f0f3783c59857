"""A limit for the whole of a call to a server: the time-outs of libraries count from one byte to the next."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_AGAIN_S = 1.0  # a library may take the error for one of its own, and try once more


@contextlib.contextmanager
def time_limit(seconds: float, what: str) -> Iterator[None]:
    """Raise TimeoutError inside the block after `seconds`, as a socket does.

    Python's signals reach only the main thread; in any other thread the block has no limit. Blocks may be
    nested: the outer one's clock stands still meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"{what} did not end within {seconds:.0f} s")

    outer = signal.signal(signal.SIGALRM, end)
    left, again = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, outer)
        signal.setitimer(signal.ITIMER_REAL, left, again)
