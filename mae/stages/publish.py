"""The stage `register`: encoder and classifier into the MLflow registry, and through the gate."""

import logging
from pathlib import Path

import numpy as np

from mae import config, registry, tracking
from mae.config import Params
from mae.data.files import write_json
from mae.data.index import Index
from mae.stages.files import CLASSIFIER, DECISION, ENCODER, IMAGES, require
from mae.stages.tracked import parent_file, stage_folder, tracked, tracking_uri

SECTIONS = {"register": ("registry",)}
_log = logging.getLogger("mae.stages")


def register(params: Params) -> None:
    """Put the models into the registry, once each, and promote them if the gate says so.

    Always runs, so that a fresh registry is filled on a cache hit too; what the registry holds already is
    neither logged nor judged again.
    """
    require(ENCODER), require(IMAGES.index)
    folder = stage_folder("register", params, SECTIONS["register"])
    uri, given = tracking_uri(params), params.registry
    with tracked("register", params, SECTIONS["register"], folder=folder) as run:
        index = Index.open(IMAGES.shards)
        models = {"encoder": (given.encoder, ENCODER)}
        if CLASSIFIER.is_file():
            models["classifier"] = (given.classifier, CLASSIFIER)
        candidate = registry.register(
            uri=uri,
            experiment=params.runtime.experiment,
            models=models,
            example=_example(index),
            tags=_lineage(params, index),
            run_id=run.id,
            pool=params.knn.pool,
        )
        if all(model.judged for model in candidate.values()):
            outcome = registry.recorded(uri, candidate)
            _log.info("unchanged: %s", outcome["reason"])
        else:
            outcome = registry.conclude(uri, candidate, _decision(params, index, uri))
        DECISION.parent.mkdir(parents=True, exist_ok=True)
        write_json(DECISION, outcome)
        run.tags({"decision": outcome["reason"]})
        run.artifact(DECISION)
    tracking.close_parent(parent_file(params))


def rollback(params: Params) -> None:
    """Make the previous champions the champions again."""
    names = [params.registry.encoder, params.registry.classifier]
    for row in registry.rollback(tracking_uri(params), names):
        print(f"{row['name']} version {row['version']}: {', '.join(row['aliases'])}")


def sync(params: Params) -> None:
    """Send what runs could not deliver while the tracking server was away."""
    left = tracking.deliver_all(parent_file(params), uri=tracking_uri(params))
    for directory in left:
        print(f"still waiting: {directory}")
    print("everything is delivered" if not left else f"{len(left)} run(s) left; run `mae sync` again")


def _decision(params: Params, index: Index, uri: str) -> registry.Decision:
    given = params.registry
    champion = registry.champion_files(uri, given.classifier)
    if not CLASSIFIER.is_file():
        return registry.unjudged(first=registry.champion_version(uri, given.encoder) is None)
    return registry.decide(
        _correct(params, index, CLASSIFIER),
        None if champion is None else _correct(params, index, champion),
        min_gain=given.min_gain,
        confidence=given.confidence,
        seed=params.seed,
    )


def _correct(params: Params, index: Index, classifier: Path) -> np.ndarray:
    """(N,) bool over val in row order: whether the classifier names the right class.

    By name, so that a champion of fewer classes than the data has by now is judged on the same samples.
    """
    import torch

    from mae.data.loaders import evaluation_batches
    from mae.data.transforms import Normalize, evaluation

    device = "cuda" if torch.cuda.is_available() and params.runtime.device != "cpu" else "cpu"
    model, about = registry.load_model(classifier)
    model.to(device).eval()
    normalize = Normalize(about["mean"], about["std"]).to(device)
    known, right = np.array(about["classes"]), []
    batches = evaluation_batches(
        index.split("val"),
        evaluation(about["img_size"], crop_pct=about.get("crop_pct")),
        batch_size=256,
        workers=params.runtime.workers,
        max_skipped=params.shard.max_rejected,
    )
    with torch.inference_mode():
        for batch in batches:
            best = model(normalize(batch["images"].to(device))).argmax(1).cpu().numpy()
            right.append(known[best] == np.array(index.classes)[batch["labels"].numpy()])
    return np.concatenate(right)


def _example(index: Index) -> bytes:
    """A real image of the data: the models' input example."""
    splits = index.about["splits"]
    return index.split("val" if "val" in splits else "train").read(0)


def _lineage(params: Params, index: Index) -> dict[str, str]:
    computed = params.model_dump(exclude={"runtime", "registry", "report"})
    return {
        **tracking.git_tags(),
        "data_digest": index.digest,
        "params_digest": config.digest(computed),
    }
