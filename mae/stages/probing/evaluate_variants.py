"""Evaluation of the fine-tuned classifier on other versions of ImageNet, read from their own folders."""

import hashlib
import logging
from functools import partial
from pathlib import Path
from typing import Any

from mae import distributed, interchange
from mae.config import Params
from mae.config.paths import CLASSIFIER, REPORTS, require
from mae.data.loading.batches import evaluation_batches
from mae.data.sources.class_folders import ClassFolders
from mae.data.transforms.image import Normalize, evaluation
from mae.engine.loop import Interrupted
from mae.engine.signals import StopRequest
from mae.evaluation.classification.accuracy import evaluate
from mae.evaluation.classification.imagenet_variants import (
    ALEXNET_ERRORS,
    SETS,
    SEVERITIES,
    Among,
    OtherSet,
    corruption_errors,
    mean_corruption_error,
)
from mae.files import sha256_of, write_csv
from mae.models import vit as encoders
from mae.stages.context.evaluation_progress import with_progress
from mae.stages.context.stage_context import StageContext, open_stage
from mae.stages.probing import probe_results

CORRUPTED = "imagenet_c"
_log = logging.getLogger("mae.stages")

Part = dict[str, Any]


def evaluate_sets(params: Params) -> None:
    """Evaluate each set of robustness.sets; reports/robustness/metrics.json holds its `<set>_<figure>`."""
    roots: dict[str, Path] = {name: root_of(params, name) for name in params.robustness.sets}
    folders = {name: _parts(name, root) for name, root in roots.items()}
    inputs = [sha256_of(require(CLASSIFIER))]
    with open_stage("robustness", params, inputs=inputs) as ctx, StopRequest() as stop:
        classifier = _Classifier(ctx)
        found: dict[str, dict[str, Part]] = {name: {} for name in folders}
        wanted = [(name, part, folder) for name, parts in folders.items() for part, folder in parts.items()]
        for number, (name, part, folder) in enumerate(wanted, 1):
            one = ctx.once(f"{name}_{part}", partial(classifier.evaluate, SETS[name], folder))
            found[name][part] = one
            said = f"{name} {part}".strip(), 100 * one["top1"], one["samples"], number, len(wanted)
            if distributed.is_main():
                _log.info("%s: top-1 %.1f %% of %d images; %d of %d done", *said)
            if distributed.any_true(stop.requested) and number < len(wanted):
                raise Interrupted(number, ctx.folder)
        if distributed.is_main():
            _write(ctx, roots, found)


class _Classifier:
    """The classifier of models/finetune, with the classes that it knows."""

    def __init__(self, ctx: StageContext) -> None:
        state, about = interchange.open_weights(require(CLASSIFIER))
        if about is None or "classes" not in about:
            raise ValueError(
                f"{CLASSIFIER}: not a classifier of the stage `finetune`; run `dvc repro finetune`"
            )
        arguments = interchange.encoder_arguments(about)
        model = encoders.build(**arguments, num_classes=len(about["classes"]), pool=about["pool"])
        model.load_state_dict(state)
        self.ctx, self.model = ctx, model.to(ctx.device)
        self.labels = {name: label for label, name in enumerate(about["classes"])}
        self.size = arguments["img_size"]
        self.normalize = Normalize(about["mean"], about["std"]).to(ctx.device)

    def evaluate(self, about: OtherSet, folder: Path) -> Part:
        """Evaluate one tree of class folders; return its figures."""
        given = self.ctx.params.robustness
        images = ClassFolders(folder, self.labels)
        names = images.classes if about.among_its_own else self.labels
        batches = evaluation_batches(
            images,
            evaluation(self.size, crop_pct=about.crop_pct),
            batch_size=given.batch_size,
            rank=distributed.rank(),
            world=distributed.world_size(),
            workers=self.ctx.params.runtime.workers,
        )
        found = evaluate(
            Among(self.model, [self.labels[name] for name in names]),
            with_progress(batches, len(images)),
            len(self.labels),
            normalize=self.normalize,
            device=self.ctx.device,
            precision=self.ctx.precision(given.precision),
        )
        figures = probe_results.metrics(found, self.ctx.params.seed)
        main = {name: figures[name] for name in ("top1", "top1_low", "top1_high", "top5", "samples")}
        return main | {"classes": len(images.classes), "digest": images.digest}


def root_of(params: Params, name: str) -> Path:
    """Find the folder of a set; raises ValueError without one."""
    places = [Path(params.robustness.root) / folder for folder in SETS[name].folders]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise ValueError(
            f"{places[0]}: no such folder; unpack {name} there, link it, or correct robustness.root"
        )
    return found


def _parts(name: str, root: Path) -> dict[str, Path]:
    """Return the trees of class folders of a set: `<corruption>_<severity>` of ImageNet-C, one of others."""
    if name != CORRUPTED:
        return {"": root}
    parts: dict[str, Path] = {}
    for corruption in ALEXNET_ERRORS:
        # The official archives hold a few corruptions each; some unpack every archive into its own folder.
        places = [root / corruption, *sorted(root.glob(f"*/{corruption}"))]
        place = next((place for place in places if place.is_dir()), places[0])
        parts |= {f"{corruption}_{severity}": place / str(severity) for severity in SEVERITIES}
    missing = [str(folder) for folder in parts.values() if not folder.is_dir()]
    if missing:
        raise ValueError(
            f"{len(missing)} of ImageNet-C's {len(parts)} folders <corruption>/<severity>/ are not there: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
        )
    return parts


def _write(ctx: StageContext, roots: dict[str, Path], found: dict[str, dict[str, Part]]) -> None:
    """Write tables and metrics, and log the sets as the run's inputs; on rank 0."""
    values: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    for name, parts in found.items():
        digest = hashlib.sha256("".join(one["digest"] for one in parts.values()).encode()).hexdigest()[:16]
        ctx.run.dataset(name, digest=digest, source=str(roots[name]), context="robustness")
        if name == CORRUPTED:
            figures, rows = _corrupted(parts)
        else:
            figures = {key: value for key, value in parts[""].items() if key != "digest"}
        values |= {f"{name}_{key}": value for key, value in figures.items()}
    for row in rows:
        for severity in SEVERITIES:
            ctx.run.log(severity, {f"{CORRUPTED}/{row['corruption']}": row[f"error_{severity}"]})
    write_csv(REPORTS / "robustness" / "corruptions.csv", rows or [{"corruption": ""}])
    ctx.run.artifact(REPORTS / "robustness" / "corruptions.csv")
    ctx.write_metrics(values)


def _corrupted(parts: dict[str, Part]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return ImageNet-C's figures, and a row per corruption: its CE and its top-1 error at each severity."""
    errors = {
        corruption: [1 - parts[f"{corruption}_{severity}"]["top1"] for severity in SEVERITIES]
        for corruption in ALEXNET_ERRORS
    }
    every = list(parts.values())
    figures = {
        "mCE": mean_corruption_error(errors),
        "top1": sum(one["top1"] for one in every) / len(every),
        "samples": sum(one["samples"] for one in every),
        "classes": min(one["classes"] for one in every),
    }
    rows = [
        {"corruption": corruption, "CE": value}
        | {f"error_{at}": error for at, error in zip(SEVERITIES, errors[corruption], strict=True)}
        for corruption, value in corruption_errors(errors).items()
    ]
    return figures, rows
