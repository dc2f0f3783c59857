"""A log line every few seconds while a set is evaluated, for whoever watches."""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

from mae import distributed

_EVERY = 5.0  # seconds
_log = logging.getLogger("mae.stages")


def with_progress(batches: Iterable[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """The batches as they come; rank 0 says how many of all `count` images are done, for all ranks."""
    began, done = time.monotonic(), 0
    said = began
    for batch in batches:
        yield batch
        done += len(batch["rows"]) * distributed.world_size()
        now = time.monotonic()
        if now - said > _EVERY and distributed.is_main():
            rate, said = done / (now - began), now
            left = (count - done) / rate
            _log.info("evaluated %d of %d images, %.0f a second, %.0f s left", done, count, rate, left)
