"""One function per stage of dvc.yaml: parameters and files in, files out.

`run_stage` imports only the module of the stage that is asked for: torch, timm and MLflow cost seconds each.
"""

import importlib
import logging
import sys
from collections.abc import Sequence
from types import ModuleType

from mae.config import Params
from mae.stages.context.outcome import recorded_outcome

MODULES = {
    "versions": "versions",
    "ingest": "data",
    "shard": "data",
    "tokenizer": "tokenizer",
    "pretrain": "pretrain",
    "knn": "knn",
    "linear": "probes",
    "attentive": "probes",
    "partial": "probes",
    "finetune": "probes",
    "scratch": "probes",
    "robustness": "robustness",
    "ingest_detect": "data",
    "shard_detect": "data",
    "detect": "detect",
    "ingest_segment": "data",
    "shard_segment": "data",
    "segment": "segment",
    "register": "register",
    "report": "report",
}


def run_stage(name: str, params: Params, parts: Sequence[str] = ()) -> None:
    """Run one stage in this process, or just these shards of it; with a steady log on standard error."""
    module = _opened(name)
    if parts:
        module.write_parts_of(name, params, parts)
        return
    with recorded_outcome(name, params):
        getattr(module, name)(params)


def parts_to_write(name: str, params: Params) -> list[str]:
    """Names of the shards that this stage would write now."""
    return _opened(name).parts_to_write(name, params)


def _opened(name: str) -> ModuleType:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # it says every figure twice
    return importlib.import_module(f"mae.stages.{MODULES[name]}")
