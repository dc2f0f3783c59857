"""A log line every few seconds while a set is evaluated, for whoever watches."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from mae import distributed
from mae.progress import Progress

_log = logging.getLogger("mae.stages")


def with_progress(batches: Iterable[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """The batches as they come; rank 0 says how many of all `count` images are done, for all ranks."""
    log = _log.info if distributed.is_main() else lambda line: None
    progress = Progress(count, log, verb="evaluated")
    for batch in batches:
        yield batch
        progress.add(len(batch["rows"]) * distributed.world_size())
