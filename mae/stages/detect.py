"""The stage `detect`: train Mask R-CNN on the encoder; evaluate it by COCO's box and mask AP."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mae import distributed, interchange
from mae.config import Params
from mae.config.paths import DETECTION, DETECTOR
from mae.data.loading.annotations import Objects, ground_truth
from mae.data.transforms.detection import detection_evaluation, large_scale_jitter
from mae.engine.schedule import warmup_multistep
from mae.evaluation.confidence import paired_statistic_gain, statistic_interval
from mae.evaluation.detection.ap_records import MatchRecords, paired_ap, resampled_ap
from mae.evaluation.detection.coco_ap import as_results, evaluate_detections, of_kind
from mae.files import write_csv, write_text
from mae.models.detection.detector import Detector, build_detector
from mae.report.plots.curves import precision_recall
from mae.report.plots.predictions import detection_panel
from mae.stages.context.dense_stage import DenseTask, picture_samples, run_dense, val_batches
from mae.stages.context.stage_context import StageContext

BUILT = (  # the settings that build the model
    *("image_size", "patch_size", "window", "global_blocks", "drop_path", "channels"),
    *("box_convs", "box_dim", "mask_convs", "anchor_scale", "rois", "proposals", "detections"),
)
REPORT_FILES = (
    "pr.csv",
    "pr.png",
    "classes.csv",
    "predictions.png",
)  # in reports/detect, with curve and metrics
RECORDS = "records.npz"
SHOWN = 0.3  # the score from which on a picture shows a detection
KINDS = {"box": "bbox", "mask": "segm"}
RESAMPLES = 300  # of images, for AP's intervals


def detect(params: Params) -> None:
    """Train a detector from each of detect.inits; write models/detect and reports/detect."""
    run_dense("detect", params, DETECTION, DETECTOR, REPORT_FILES, _task)


def _task(ctx: StageContext) -> DenseTask:
    given = ctx.params.detect
    return DenseTask(
        build=_build,
        size=given.image_size,
        name="detect",
        transform=large_scale_jitter(
            given.image_size, scale=given.jitter_scale, flip=given.flip, max_objects=given.max_objects
        ),
        target=Objects(ctx.index.about["categories"]),
        counted="object that is no crowd",
        countable=lambda objects: not all(one["iscrowd"] for one in objects["annotations"]),
        schedule=lambda step, peak: warmup_multistep(
            step, peak=peak, milestones=given.milestones, warmup=given.warmup_steps
        ),
        evaluate=_evaluate,
        gain=_gain,
    )


def _build(ctx: StageContext, encoder: dict[str, Any], state: Any) -> nn.Module:
    given = ctx.params.detect
    return build_detector(
        interchange.encoder_arguments(encoder),
        len(ctx.index.about["categories"]),
        encoder_state=state,
        seed=ctx.params.seed,
        **given.model_dump(include=set(BUILT)),
    )


def _evaluate(ctx: StageContext, model: Detector, folder: Path) -> dict[str, Any]:
    """Compute AP on val; write the official results json, match records, tables and pictures to `folder`."""
    given, categories = ctx.params.detect, ctx.index.about["categories"]
    transform, target = detection_evaluation(given.image_size), Objects(categories)
    find = detect_function(model, ctx.normalize, ctx.device, ctx.precision(given.precision))
    mine = results_of(val_batches(ctx, transform, target, batch_size=8), find, categories)
    found = distributed.gather_objects(mine)
    if not distributed.is_main():
        return {}
    annotations = ground_truth(ctx.index.split("val"), categories)
    results = {name: evaluate_detections(annotations, found, kind) for name, kind in KINDS.items()}
    values = {f"{name}_{key}": v for name, one in results.items() for key, v in one.figures.items()}
    records = results["box"].records
    seed, count = ctx.params.seed, len(annotations["images"])
    low, high = statistic_interval(resampled_ap(records), count, resamples=RESAMPLES, seed=seed)
    for name, kind in KINDS.items():
        write_text(folder / f"results_{name}.json", json.dumps(of_kind(found, kind)))
    records.save(folder / RECORDS)
    write_csv(folder / "pr.csv", results["box"].curve)
    write_csv(folder / "classes.csv", results["box"].categories)
    precision_recall(folder / "pr.png", results["box"].curve, title="Detection: boxes")
    shown = [(image, labels, find(one)[0]) for image, labels, one in picture_samples(ctx, transform, target)]
    detection_panel(folder / "predictions.png", shown, [one["name"] for one in categories], threshold=SHOWN)
    return {**values, "box_AP_low": low, "box_AP_high": high, "samples": count}


Batch = dict[str, Any]
Find = Callable[[Batch], list[dict[str, Any]]]


def detect_function(
    model: Detector, normalize: Callable[[Tensor], Tensor], device: torch.device, precision: str
) -> Find:
    """Return a function from the loader's batch to detections; `model` is in evaluation mode."""

    def find(batch: Batch) -> list[dict[str, Any]]:
        images = normalize(batch["images"].to(device, non_blocking=True))
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, precision == "bf16"):
            return model.detect(images, batch["targets"])

    return find


def results_of(batches: Iterable[Batch], find: Find, categories: Sequence[dict[str, Any]]) -> list[Batch]:
    """Collect the official results of every image of `batches`."""
    found: list[dict[str, Any]] = []
    for batch in batches:
        ids = [one["image_id"] for one in batch["targets"]]
        found += as_results(find(batch), ids, [one["id"] for one in categories])
    return found


def _gain(ours: Path, theirs: Path, seed: int) -> tuple[float, float, float]:
    """Return the gain in box AP and its interval, paired over images."""
    first, second = (MatchRecords.load(folder / RECORDS) for folder in (ours, theirs))
    count = len(first.image_ids)
    return paired_statistic_gain(paired_ap(first, second), count, resamples=RESAMPLES, seed=seed)
