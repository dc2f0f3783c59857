"""The table of checks of the preflight: one row for each concern.

The types in mae/config refuse what the parameters alone show; these checks look at the machine, at files, and
at the models, built without memory on torch's meta device. They read no image. The command `mae check` runs
them, and the stage `versions`, the first of each `dvc repro`.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mae import config
from mae.config import Params
from mae.stages.context import data_sizes
from mae.stages.preflight import models, places

_log = logging.getLogger("mae.stages")


@dataclass(frozen=True)
class Check:
    """One concern. sections: those that it reads; faults: yields one text each, beginning with the key.

    passing: what it finds may be gone when a stage needs it, so that it stops no run.
    """

    concern: str
    sections: tuple[str, ...]
    faults: Callable[[Params], Iterable[str]]
    passing: bool = False


CHECKS = (
    Check("work folder", ("runtime",), places.work_folder),
    Check("device", ("runtime",), places.device),
    Check("loader's processes", ("runtime",), places.workers),
    Check("tracking store", ("runtime",), places.tracking_store),
    Check("tracking server", ("runtime",), places.tracking_server, passing=True),
    Check("flows", ("flows",), places.flows),
    Check("images", ("ingest",), places.images),
    Check("detection images", ("ingest_detect",), places.detection_images),
    Check("segmentation images", ("ingest_segment",), places.segmentation_images),
    Check("robustness sets", ("robustness",), places.robustness_sets),
    Check("models", ("encoder", "input"), models.unbuildable),
    Check("sizes of the data", ("ingest", "demo", "encoder"), data_sizes.beyond_the_data),
)


def preflight(params: Params, *, passing: bool = True) -> list[str]:
    """Return every fault, each with key, value and remedy, of the sections that are valid.

    passing: also those that may be gone when a stage needs it, such as a server that is away.
    """
    valid = {name for name in Params.model_fields if hasattr(params, name)}
    rows = [row for row in CHECKS if valid.issuperset(row.sections) and (passing or not row.passing)]
    return [fault for row in rows for fault in row.faults(params)]


def refuse_unready(params: Params) -> None:
    """Raise InvalidParams with what would fail in a later stage; log what may be gone by then."""
    config.refuse(preflight(params, passing=False), "params.yaml")
    for row in CHECKS:
        for fault in row.faults(params) if row.passing else ():
            _log.warning("%s", fault)
