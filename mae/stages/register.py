"""The stage `register`: the models into the MLflow registry, and through the gate."""

import logging
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mae import config, registry
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
    read_json,
    require,
)
from mae.data.shards.index import Index
from mae.files import write_json
from mae.stages.context.tracked_run import stage_folder, tracked, tracking_uri
from mae.stages.evaluate_challenger import classification, detection, segmentation

TRAINED_BY = {"encoder": "pretrain", "classifier": "finetune", "detector": "detect", "segmenter": "segment"}
_log = logging.getLogger("mae.stages")


def register(params: Params) -> None:
    """Put the models into the registry, once each, and promote those for which the gate says so.

    Encoder and classifier belong together; the detector and the segmenter each have a champion of their own.
    Always runs, so that a fresh registry is filled on a cache hit too; what the registry holds already is
    neither logged nor judged again.
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
        DECISION.parent.mkdir(parents=True, exist_ok=True)
        write_json(DECISION, outcomes)
        run.tags({f"decision.{kind}": outcome["reason"] for kind, outcome in outcomes.items()})
        run.artifact(DECISION)


def _registered(
    params: Params, kind: str, models: dict[str, tuple[str, Path]], index: Index, run_id: str
) -> dict[str, Any]:
    """Register models that belong together and let the gate decide, if it has not; what came of it."""
    uri = tracking_uri(params)
    registry.finish(uri, [name for name, _ in models.values()])
    candidate = registry.register(
        uri=uri,
        experiment=params.runtime.experiment,
        models=models,
        example=partial(_example, index),
        tags={kind: _lineage(kind) for kind in models},
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
    """The index; without the shards, too, which a clean clone has not and what is registered needs not."""
    return Index.open(shards, here=(shards / "tars").exists())


def _example(index: Index) -> bytes:
    """A real image of the data: the models' input example."""
    index = Index.open(index.directory)  # says what to do where the shards are not here
    return index.viewed.read(0)


def _lineage(kind: str) -> dict[str, str]:
    """The code, data and parameters of the stage that trained a model, from that stage's own record."""
    record = read_json(REPORTS / TRAINED_BY[kind] / "run.json")
    return {
        "git.commit": record["commit"],
        "git.dirty": str(record.get("dirty", "unknown")).lower(),
        "code_digest": record.get("code", "unknown"),
        "data_digest": record.get("data") or "unknown",
        "params_digest": config.digest(record.get("params")),
    }
