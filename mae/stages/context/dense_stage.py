"""The common part of `detect` and `segment`: a training for each of `inits`, evaluated and compared."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from mae import config, distributed, interchange
from mae.config import Params
from mae.config.paths import ENCODER, NO_SET, REPORTS, DataSet, read_result, require
from mae.data.decode import decode
from mae.data.loading.batches import evaluation_batches
from mae.evaluation.dense_training import DenseRecipe, Schedule, train_dense
from mae.files import copy, write_csv, write_text
from mae.report.plots.canvas import empty_picture
from mae.report.plots.curves import compared_curves
from mae.serving.model_file import save_dense
from mae.stages.context.evaluation_progress import with_progress
from mae.stages.context.stage_context import PICTURES, StageContext, open_stage
from mae.stages.context.tracked_run import stage_folder, tracked

CURVE = ("loss", "lr", "grad_norm", "images_per_second")
NO_DATA = "params.yaml says that there is no data for it (source: none)"

Results = dict[str, Any]


@dataclass(frozen=True)
class DenseTask:
    """The parts of a dense task that differ from the other.

    name, size: for the model's file, see `model_file.save_dense`. build(ctx, encoder config, encoder
    weights or None) -> model. transform, target: of training (`batches.training_batches`). countable: whether
    a target holds any of `counted`, without which there is no figure. schedule(step, peak) -> rate.
    evaluate(ctx, model, folder): evaluates on val, on all ranks; rank 0 returns the final numbers and writes
    the files to keep (records.npz, tables, pictures) to `folder`.
    gain(ours, theirs, seed): (gain, low, high) of the main figure, from two folders.
    """

    name: str
    size: int
    build: Callable[[StageContext, dict[str, Any], Any], nn.Module]
    transform: Callable[..., Any]
    target: Callable[..., Any]
    counted: str
    countable: Callable[[Any], bool]
    schedule: Schedule
    evaluate: Callable[[StageContext, Any, Path], Results]
    gain: Callable[[Path, Path, int], tuple[float, float, float]]


def run_dense(
    stage: str,
    params: Params,
    files: DataSet,
    model_file: Path,
    report_files: Sequence[str],
    task_of: Callable[[StageContext], DenseTask],
) -> None:
    """Run a dense stage; `report_files`: the files in its reports besides curve and metrics."""
    if read_result(require(files.index)) == NO_SET:
        _skip(stage, params, model_file, report_files)
        return
    with open_stage(stage, params, files=files, encoder_file=ENCODER) as ctx:
        task = task_of(ctx)
        _require_targets(ctx, task)
        _compare(ctx, getattr(params, stage), task, model_file)


def _skip(stage: str, params: Params, model_file: Path, report_files: Sequence[str]) -> None:
    """Write the files of a stage whose data params.yaml declares missing (source: none)."""
    with tracked(stage, params, folder=stage_folder(stage, params)) as run:
        run.tags({"skipped": NO_DATA})
        write_text(model_file.parent / "SKIPPED.txt", NO_DATA + "\n")
        write_text(REPORTS / stage / "metrics.json", json.dumps({"skipped": NO_DATA}) + "\n")
        for name in (*report_files, "curve.csv", "curve.png"):
            if name.endswith(".png"):
                empty_picture(REPORTS / stage / name, NO_DATA)
            else:
                write_csv(REPORTS / stage / name, [{"step": 0}])


def _require_targets(ctx: StageContext, task: DenseTask) -> None:
    """Raise ValueError where val has no targets to evaluate by: before a training, not after it."""
    split = ctx.index.split("val")
    if not any(task.countable(task.target(split, row)) for row in range(len(split))):
        raise ValueError(
            f"{ctx.files.index}: the {len(split)} images of the split val have no {task.counted}, "
            f"nothing to evaluate by; annotate some, or skip the task: set ingest_{ctx.stage}.source to none"
        )


def _compare(ctx: StageContext, settings: config.Dense, task: DenseTask, model_file: Path) -> None:
    """Train and evaluate from each of `settings.inits`; the first one's model and files are the stage's."""
    folders: dict[str, Path] = {
        init: ctx.folder / "checkpoints" / f"{init}_results" for init in settings.inits
    }
    found = {
        init: ctx.once(init, partial(_train_and_evaluate, ctx, settings, task, init, folder))
        for init, folder in folders.items()
    }
    if not distributed.is_main():
        return
    first, *others = folders
    values: Results = {"init": first, **found[first]}
    for other in others:
        values |= {f"{other}_{name}": value for name, value in found[other].items()}
        gain = task.gain(folders[first], folders[other], ctx.params.seed)
        values |= dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True))
    _copy_results(ctx, folders[first], model_file)
    rows = [_renamed(row, first, others) for row in ctx.curve([f"{i}/{n}" for i in found for n in CURVE])]
    write_csv(REPORTS / ctx.stage / "curve.csv", rows)
    columns = {first: "loss"} | {other: f"{other}_loss" for other in others}
    compared_curves(REPORTS / ctx.stage / "curve.png", rows, columns, title=f"Training: {ctx.stage}")
    ctx.run.picture(REPORTS / ctx.stage / "curve.png")
    rates = sorted(row["images_per_second"] for row in rows if "images_per_second" in row)
    values |= {"steps": settings.steps, "images_per_second": rates[len(rates) // 2]}
    ctx.write_metrics(values)


def _train_and_evaluate(
    ctx: StageContext, settings: config.Dense, task: DenseTask, init: str, folder: Path
) -> Results:
    state, encoder = interchange.load_encoder(ENCODER)
    model = task.build(ctx, encoder, state if init == "pretrained" else None)
    own = settings if init == "pretrained" else settings.scratch
    split = ctx.index.split("train")

    def batches(start: int, attempt: int) -> Iterator[Mapping[str, Any]]:
        return ctx.training_batches(
            split,
            task.transform,
            settings,
            start=start,
            stop=settings.steps,
            attempt=attempt,
            target=task.target,
        )

    train_dense(
        model,
        batches,
        recipe=DenseRecipe(own.base_lr, settings.weight_decay, settings.betas, own.layer_decay),
        steps=settings.steps,
        schedule=task.schedule,
        global_batch=settings.batch_size,
        normalize=ctx.normalize,
        options=ctx.fit_options(settings, init),
    )
    if distributed.is_main():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        save_dense(
            folder / "model.safetensors",
            model,
            task=task.name,
            categories=ctx.index.about["categories"],
            mean=encoder["mean"],
            std=encoder["std"],
            size=task.size,
        )
    distributed.barrier()
    model.eval()
    return task.evaluate(ctx, model, folder)


def val_batches(
    ctx: StageContext, transform: Callable[..., Any], target: Callable[..., Any], *, batch_size: int
) -> Iterator[dict[str, Any]]:
    """Load this rank's batches of val, each sample once over the ranks, with a log line every few seconds."""
    split = ctx.index.split("val")
    batches = evaluation_batches(
        split,
        transform,
        target=target,
        batch_size=batch_size,
        rank=distributed.rank(),
        world=distributed.world_size(),
        workers=ctx.params.runtime.workers,
        max_skipped=ctx.max_skipped,
    )
    return with_progress(batches, len(split))


def picture_samples(
    ctx: StageContext, transform: Callable[..., Any], target: Callable[..., Any]
) -> Iterator[tuple[Tensor, Any, dict[str, Any]]]:
    """Yield a few images of val for pictures: decoded, uint8 (3, H, W), with target, and as a batch."""
    split = ctx.index.split("val")
    count = min(PICTURES, len(split))
    for row in np.linspace(0, len(split) - 1, count).astype(int).tolist():
        image, annotation = decode(split.read(row)), target(split, row)
        made, about = transform(image, annotation)
        yield image, annotation, {"images": made[None], "targets": [about]}


def _copy_results(ctx: StageContext, folder: Path, model_file: Path) -> None:
    """Copy tables and pictures to reports/<stage>, the rest next to the model."""
    reports = REPORTS / ctx.stage
    reports.mkdir(parents=True, exist_ok=True)
    model_file.parent.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".png", ".csv"):
            copy(path, reports / path.name)
            if path.suffix == ".png":
                ctx.run.picture(reports / path.name)
        elif path.is_dir():
            shutil.copytree(path, model_file.parent / path.name, dirs_exist_ok=True, copy_function=copy)
        else:
            target = model_file if path.name == "model.safetensors" else model_file.parent / path.name
            copy(path, target)


def _renamed(row: Mapping[str, float], first: str, others: Sequence[str]) -> dict[str, float]:
    """Rename the columns: the first training's to `<name>`, the others' to `<init>_<name>`."""
    names = {f"{first}/{name}": name for name in CURVE}
    names |= {f"{other}/{name}": f"{other}_{name}" for other in others for name in CURVE}
    return {names.get(key, key): value for key, value in row.items()}
