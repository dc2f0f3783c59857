"""The stages of dvc.yaml: one file with one function each, parameters and files in, files out.

`run_stage` imports only the module of the stage that it runs: torch, timm and MLflow cost seconds each.
"""

import importlib
import logging
import sys
from collections.abc import Sequence
from types import ModuleType

from mae.config import Params
from mae.stage_table import STAGES
from mae.stages.context.outcome import recorded_outcome


def run_stage(name: str, params: Params, parts: Sequence[str] = ()) -> None:
    """Run one stage in this process, or only the named shards of it; log to standard error."""
    _log_to_stderr()
    if parts:
        _data_sets().write_parts_of(name, params, parts)
        return
    with recorded_outcome(name, params):
        if "input" in STAGES[name].sections and params.input.is_auto:
            context = importlib.import_module("mae.stages.context.measured_input")
            params = context.with_measured_input(name, params)
        getattr(importlib.import_module(f"mae.stages.{name}"), name)(params)


def parts_to_write(name: str, params: Params) -> list[str]:
    """Return the names of the shards that this stage would write now."""
    _log_to_stderr()
    found: list[str] = _data_sets().parts_to_write(name, params)
    return found


def _data_sets() -> ModuleType:
    return importlib.import_module("mae.stages.context.data_sets")


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    # MLflow's own words on a database that is full or away are a traceback; a run says it in a line.
    logging.getLogger("mlflow.store.db.utils").disabled = True
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # it says every figure twice
