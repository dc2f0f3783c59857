"""The one progress line of long work: the count, the rate and the time left, every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_S = 5.0


class Progress:
    """A counter of finished units that logs "sharded 1,200 of 5,000 images, 310 images/s, 0:00:12 left".

    verb, unit: the words of that line. done: units that an earlier run finished; they count, but not for the
    rate. log: called with each line, at most once in `EVERY_S` seconds.
    """

    def __init__(
        self, total: int, log: Callable[[str], None], *, verb: str, unit: str = "images", done: int = 0
    ) -> None:
        self._total, self._log, self._verb, self._unit = total, log, verb, unit
        self._before = self._done = done
        self._began = self._logged = time.monotonic()

    def add(self, count: int) -> None:
        """Count finished units, and log a line where it is time."""
        self._done += count
        now = time.monotonic()
        if now - self._logged < EVERY_S:
            return
        self._logged = now
        rate = (self._done - self._before) / (now - self._began)
        left = clock((self._total - self._done) / rate) if rate else "unknown time"
        self._log(
            f"{self._verb} {self._done:,} of {self._total:,} {self._unit}, "
            f"{rate:,.{0 if rate >= 10 else 1}f} {self._unit}/s, {left} left"
        )


def clock(seconds: float) -> str:
    """Spell a duration as hours:minutes:seconds."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
