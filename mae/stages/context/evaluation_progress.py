"""A log line every few seconds while a set is evaluated."""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from mae import distributed
from mae.progress import Progress

_log = logging.getLogger("mae.stages")


def with_progress(batches: Iterable[dict[str, Any]], count: int) -> Iterator[dict[str, Any]]:
    """Yield the batches; rank 0 logs how many of the `count` images all ranks have evaluated."""
    log = _log.info if distributed.is_main() else lambda line: None
    progress = Progress(count, log, verb="evaluated")
    for batch in batches:
        yield batch
        progress.add(len(batch["rows"]) * distributed.world_size())
