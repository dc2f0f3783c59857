"""The colour statistics of `input` where params.yaml says `auto`: measured once for each set of shards."""

import logging
from pathlib import Path
from typing import Any

from mae.config import Params
from mae.config.paths import COLOURS, IMAGES, require
from mae.config.sections import Input
from mae.data.shards.colour_statistics import measure_colours
from mae.data.shards.index import Index
from mae.files import read_json, write_json
from mae.tracking.locks import one_at_a_time

_NEAR = 0.02
_PATIENCE_S = 3600.0
_log = logging.getLogger("mae.stages")


def with_measured_input(stage: str, params: Params) -> Params:
    """Replace `auto` by numbers, so that all that a stage writes has them.

    They depend on the index of the shards alone, which each stage that reads `input` has as a dependency, and
    are kept next to it in colours.json for the stages after this one. A pretraining that goes on from weights
    (pretrain.init) of numbers near them uses those: new images move the statistics a little each time.
    """
    measured = _measured()
    if stage == "pretrain":
        measured = _near_weights(params, measured)
    given = params.input
    numbers = {
        name: measured[name] if getattr(given, name) == "auto" else getattr(given, name)
        for name in ("mean", "std")
    }
    _log.info("input.mean %s and input.std %s", *map(list, numbers.values()))
    return params.model_copy(update={"input": Input(**numbers)})


def _measured() -> dict[str, Any]:
    """Return the statistics of the shards of train: those of colours.json, where it is of these shards."""
    require(IMAGES.index)
    index = Index.open(IMAGES.shards)
    with one_at_a_time(COLOURS, patience_s=_PATIENCE_S):  # the ranks of a training begin together
        kept: dict[str, Any] = read_json(COLOURS) or {}
        if kept.get("index") != index.digest:
            kept = {"index": index.digest, **measure_colours(index.split("train"), _log.info)}
            write_json(COLOURS, kept)
    return kept


def _near_weights(params: Params, measured: dict[str, Any]) -> dict[str, Any]:
    if params.pretrain.init is None or not Path(params.pretrain.init).is_file():
        return measured
    from mae.interchange import open_weights  # torch, which measuring does without

    config = open_weights(params.pretrain.init)[1] or {}
    theirs = config.get("encoder", config)
    near = all(
        len(theirs.get(name, ())) == 3
        and all(abs(a - b) <= _NEAR for a, b in zip(theirs[name], measured[name], strict=True))
        for name in ("mean", "std")
    )
    return theirs if near else measured
