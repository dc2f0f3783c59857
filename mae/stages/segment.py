"""The stage `segment`: train UperNet or DPT on the encoder; evaluate it by mean IoU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mae import distributed, interchange
from mae.config import Params
from mae.config.paths import SEGMENTATION, SEGMENTER
from mae.data.loading.annotations import LabelMap
from mae.data.transforms.segmentation import segmentation_evaluation, segmentation_training
from mae.engine.schedule import warmup_linear
from mae.evaluation.confidence import paired_statistic_gain, statistic_interval
from mae.evaluation.segmentation.iou import (
    gather_counts,
    iou_figures,
    paired_miou,
    pixel_counts,
    resampled_miou,
)
from mae.files import atomic_write, write_csv
from mae.models.segmentation import IGNORE
from mae.models.segmentation.segmenter import Segmenter, build_segmenter
from mae.report.plots.bars import class_bars
from mae.report.plots.predictions import segmentation_panel
from mae.stages.context.dense_stage import DenseTask, picture_samples, run_dense, val_batches
from mae.stages.context.stage_context import StageContext

BUILT = (  # the settings that build the model
    *("crop", "stride", "head", "taps", "channels", "drop_path", "dropout"),
    *("auxiliary", "auxiliary_channels"),
)
REPORT_FILES = ("classes.csv", "classes.png", "predictions.png")  # in reports/segment, with curve and metrics
RECORDS = "records.npz"
RESAMPLES = 1000  # of images, for mIoU's intervals


def segment(params: Params) -> None:
    """Train a segmenter from each of segment.inits; write models/segment and reports/segment."""
    run_dense("segment", params, SEGMENTATION, SEGMENTER, REPORT_FILES, _task)


def _task(ctx: StageContext) -> DenseTask:
    given = ctx.params.segment
    return DenseTask(
        build=_build,
        size=given.short,
        name="segment",
        transform=segmentation_training(
            given.crop,
            short=given.short,
            ratio=given.ratio,
            max_class_share=given.max_class_share,
            flip=given.flip,
            jitter=given.jitter,
        ),
        target=_reader(ctx),
        counted="labelled pixel",
        countable=lambda labels: bool((labels != IGNORE).any()),
        schedule=lambda step, peak: warmup_linear(
            step, peak=peak, warmup=given.warmup_steps, total=given.steps
        ),
        evaluate=_evaluate,
        gain=_gain,
    )


def _reader(ctx: StageContext) -> LabelMap:
    return LabelMap(ctx.index.about["categories"], ctx.index.about["ignore"])


def _build(ctx: StageContext, encoder: dict[str, Any], state: Any) -> nn.Module:
    given = ctx.params.segment
    return build_segmenter(
        interchange.encoder_arguments(encoder),
        len(ctx.index.about["categories"]),
        encoder_state=state,
        seed=ctx.params.seed,
        **given.model_dump(include=set(BUILT)),
    )


def _evaluate(ctx: StageContext, model: Segmenter, folder: Path) -> dict[str, Any]:
    """Compute mIoU on val; write predicted maps in the data's values, tables and pictures to `folder`."""
    categories = ctx.index.about["categories"]
    transform, target = segmentation_evaluation(ctx.params.segment.short), _reader(ctx)
    values_of = np.array([one["id"] for one in categories])
    values_of = values_of.astype(np.uint8 if values_of.max() < 256 else np.uint16)
    (folder / "predictions").mkdir(parents=True, exist_ok=True)
    split = ctx.index.split("val")
    rows: list[int] = []
    counts: list[np.ndarray] = []
    draw = segment_function(model, ctx.normalize, ctx.device, ctx.precision(ctx.params.segment.precision))
    for batch in val_batches(ctx, transform, target, batch_size=1):
        row, labels = int(batch["rows"][0]), batch["targets"][0]["labels"]
        (predicted,) = draw(batch)
        rows.append(row)
        counts.append(pixel_counts(predicted, labels, len(categories)))
        picture = Image.fromarray(values_of[predicted.numpy()])
        with atomic_write(folder / "predictions" / f"{split.meta(row)['key']}.png") as file:
            picture.save(file, "PNG")
    every, counted = gather_counts(rows, counts)
    if not distributed.is_main():
        return {}
    figures = iou_figures(counted)
    seed = ctx.params.seed
    low, high = statistic_interval(resampled_miou(counted), len(every), resamples=RESAMPLES, seed=seed)
    with atomic_write(folder / RECORDS) as file:
        np.savez_compressed(file, counts=counted, rows=every)
    table = [
        {"class": one["name"], "IoU": iou, "Acc": accuracy}
        for one, iou, accuracy in zip(categories, figures["IoU"], figures["Acc"], strict=True)
        if iou is not None
    ]
    write_csv(folder / "classes.csv", table)
    class_bars(folder / "classes.png", table, title="Segmentation")
    shown = [(image, labels, draw(one)[0]) for image, labels, one in picture_samples(ctx, transform, target)]
    segmentation_panel(folder / "predictions.png", shown, [one["name"] for one in categories])
    main = {name: figures[name] for name in ("mIoU", "mAcc", "aAcc")}
    return {**main, "mIoU_low": low, "mIoU_high": high, "samples": len(every)}


def segment_function(
    model: Segmenter, normalize: Callable[[Tensor], Tensor], device: torch.device, precision: str
) -> Callable[[dict[str, Any]], list[Tensor]]:
    """Return a function from the loader's batch to class indices (H, W) of each image, at its original size.

    They are on the CPU; `model` is in evaluation mode.
    """

    def draw(batch: dict[str, Any]) -> list[Tensor]:
        found = []
        for image, target in zip(batch["images"], batch["targets"], strict=True):
            images = normalize(image[None].to(device, non_blocking=True))
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, precision == "bf16"):
                found.append(model.segment(images, target["size"]).cpu())
        return found

    return draw


def _gain(ours: Path, theirs: Path, seed: int) -> tuple[float, float, float]:
    """Return the gain in mIoU and its interval, paired over images."""
    first, second = (np.load(folder / RECORDS)["counts"] for folder in (ours, theirs))
    return paired_statistic_gain(paired_miou(first, second), len(first), resamples=RESAMPLES, seed=seed)
