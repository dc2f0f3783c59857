"""The stage `register`: put the models into the MLflow registry and let the gate decide."""

import logging
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mae import config, registry, results
from mae.config import Params
from mae.config.paths import (
    CLASSIFIER,
    DECISION,
    DETECTION,
    DETECTOR,
    ENCODER,
    IMAGES,
    METHOD,
    REPORTS,
    SEGMENTATION,
    SEGMENTER,
    read_result,
    require,
)
from mae.data.shards.index import Index
from mae.files import sha256_of, write_json
from mae.stages.context.tracked_run import stage_folder, tracked, tracking_uri
from mae.stages.promotion.evaluate_challenger import classification, detection, segmentation

TRAINED_BY = {"encoder": "pretrain", "classifier": "finetune", "detector": "detect", "segmenter": "segment"}
_log = logging.getLogger("mae.stages")


def register(params: Params) -> None:
    """Put each model into the registry once, and promote those that the gate accepts.

    Encoder and classifier belong together; the detector and the segmenter each have a champion of their own.
    The stage always runs, so that a fresh registry is filled on a cache hit too. A model that the registry
    holds already is neither logged nor evaluated again.
    """
    require(ENCODER), require(IMAGES.index)
    folder = stage_folder("register", params)
    given = params.registry
    together: dict[str, dict[str, tuple[str, Path]]] = {
        "encoder": {"encoder": (given.encoder, ENCODER), "classifier": (given.classifier, CLASSIFIER)},
        "detector": {"detector": (given.detector, DETECTOR)},
        "segmenter": {"segmenter": (given.segmenter, SEGMENTER)},
    }
    files = {"encoder": IMAGES, "detector": DETECTION, "segmenter": SEGMENTATION}
    with tracked("register", params, folder=folder) as run:
        outcomes = {}
        for kind, models in together.items():
            there = {name: model for name, model in models.items() if model[1].is_file()}
            if there:
                outcomes[kind] = _registered(params, kind, there, _index(files[kind].shards), run.id)
        write_json(DECISION, outcomes)
        run.tags({f"decision.{kind}": outcome["reason"] for kind, outcome in outcomes.items()})
        run.artifact(DECISION)


def _registered(
    params: Params, kind: str, models: dict[str, tuple[str, Path]], index: Index, run_id: str
) -> dict[str, Any]:
    """Register models that belong together; return the gate's decision, made now or before."""
    uri = tracking_uri(params)
    registry.finish(uri, [name for name, _ in models.values()])
    candidate = registry.register(
        uri=uri,
        experiment=params.runtime.experiment,
        models=models,
        example=partial(_example, index),
        tags={kind: _lineage(kind, file) for kind, (_, file) in models.items()},
        run_id=run_id,
        pool=params.knn.pool,
        method=METHOD if METHOD.is_file() else None,
    )
    if all(model.decided for model in candidate.values()):
        outcome = registry.recorded(uri, candidate)
        _log.info("%s: unchanged: %s", kind, outcome["reason"])
        return outcome
    gate = {"encoder": classification, "detector": detection, "segmenter": segmentation}[kind]
    while True:
        against = {model.name: registry.champion_version(uri, model.name) for model in candidate.values()}
        with TemporaryDirectory() as folder:
            decision = gate(params, uri, Path(folder))
        try:
            return registry.conclude(uri, candidate, decision, against)
        except registry.Overtaken as overtaken:
            _log.warning("%s: %s; evaluating again", kind, overtaken)


def _index(shards: Path) -> Index:
    """Open the index, also without the shards: a clean clone has none, and registered models need none."""
    return Index.open(shards, here=(shards / "tars").exists())


def _example(index: Index) -> bytes:
    """Read a real image of the data: the input example of the models."""
    index = Index.open(index.directory)  # its error says what to do without shards
    return index.viewed.read(0)


def _lineage(kind: str, model: Path) -> dict[str, str]:
    """Read the code, data and parameters of a model from the record of the stage that trained it.

    A model that took the place of the trained one, as after `mae import`, has none: all are `unknown`.
    """
    file = REPORTS / TRAINED_BY[kind] / "run.json"
    record = read_result(file)
    if record.get("model") not in (None, sha256_of(model)):  # records of older releases name no model
        _log.warning("%s is not the model that %s describes; its lineage is unknown", model, file)
        record = {}
    return {
        "git.commit": record.get("commit", "unknown"),
        "git.dirty": results.spelled(record.get("dirty")),
        "code_digest": record.get("code", "unknown"),
        "data_digest": record.get("data") or "unknown",
        "params_digest": config.digest(record["params"]) if "params" in record else "unknown",
    }
