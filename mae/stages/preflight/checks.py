"""The table of checks of the preflight: one row for each concern.

The types in mae/config refuse what the parameters alone show; these checks look at the machine, at files, and
at the models, built without memory on torch's meta device. They read no image. The command `mae check` runs
them, and the stage `versions`, the first of each `dvc repro`.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from mae import config, results
from mae.config import Params
from mae.files import read_json, write_json
from mae.stages.context import data_sizes
from mae.stages.preflight import places

_log = logging.getLogger("mae.stages")


def _models(params: Params) -> Iterable[str]:
    from mae.stages.preflight import models  # imports timm, which takes seconds

    return models.unbuildable(params)


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
    Check("models", ("encoder", "input"), _models),
    Check("sizes of the data", ("ingest", "demo", "encoder"), data_sizes.beyond_the_data),
)


def preflight(params: Params) -> list[str]:
    """Return every fault, each with key, value and remedy, of the sections that are valid."""
    valid = {name for name in Params.model_fields if hasattr(params, name)}
    rows = [row for row in CHECKS if valid.issuperset(row.sections)]
    return [fault for row in rows for fault in row.faults(params)]


def refuse_unready(params: Params) -> None:
    """Raise InvalidParams with what would fail in a later stage; log what may be gone by then.

    Models that could be built can be built again: settings and code that passed are remembered in the work
    folder, so that a run with nothing to do does not wait for timm.
    """
    file = Path(params.runtime.work_dir, "buildable.json")
    libraries = [metadata.version(name) for name in ("torch", "timm")]
    passed = config.digest(params.model_dump(mode="json"), results.code_digest(), libraries)
    remembered = params.pretrain.init is None and read_json(file) == passed
    rows = [row for row in CHECKS if not (remembered and row.faults is _models)]
    config.refuse([fault for row in rows if not row.passing for fault in row.faults(params)], "params.yaml")
    if not remembered:
        write_json(file, passed)
    for row in rows:
        for fault in row.faults(params) if row.passing else ():
            _log.warning("%s", fault)
