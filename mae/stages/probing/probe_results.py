"""The results of an evaluation: final numbers with their intervals, curves, and the answers themselves."""

from pathlib import Path
from typing import Any

import numpy as np

from mae import distributed
from mae.config import FineTune
from mae.config.paths import REPORTS
from mae.evaluation.classification.accuracy import Evaluation
from mae.evaluation.confidence import bootstrap_interval, paired_gain
from mae.files import atomic_write, write_csv, write_text
from mae.report.plots.curves import partial_curve
from mae.stages.context.stage_context import StageContext

NO_LABELS = "the shards have no labels, or no val split, to evaluate by"
CURVE = ("loss", "lr", "grad_norm", "images_per_second")


def metrics(found: Evaluation, seed: int) -> dict[str, Any]:
    """Return the final numbers of an evaluation; top1_low and top1_high are its 95 % bootstrap interval."""
    low, high = bootstrap_interval(found.correct, seed=seed)
    values = {
        "top1": found.top1,
        "top1_low": low,
        "top1_high": high,
        "top5": found.top5,
        "samples": found.count,
        "undecodable": found.skipped,
    }
    return values if found.loss is None else values | {"loss": found.loss}


def trained(ctx: StageContext, found: Evaluation, settings: FineTune) -> dict[str, Any]:
    """Write the curve of a stage with one training, and return its final numbers."""
    rate = write_curve(ctx, "")
    about = {"labels_per_class": settings.labels_per_class, "images_per_second": rate}
    return metrics(found, ctx.params.seed) | about


def against_random(found: dict[str, Evaluation], seed: int) -> dict[str, Any]:
    """Return the final numbers of the pretrained encoder, with its gain over a random one."""
    values = metrics(found["pretrained"], seed)
    if "random" in found:
        gain, low, high = paired_gain(found["pretrained"].correct, found["random"].correct, seed=seed)
        values |= {"random_top1": found["random"].top1, "gain": gain, "gain_low": low, "gain_high": high}
    return values


def to_json(found: Evaluation) -> dict[str, Any]:
    """Turn an evaluation into JSON, for `StageContext.once`; `from_json` is the reverse."""
    plain = {name: getattr(found, name) for name in ("top1", "top5", "loss", "count", "skipped")}
    return plain | {
        "rows": found.rows.tolist(),
        "correct": "".join(map(str, found.correct.astype(int))),
    }


def from_json(values: dict[str, Any]) -> Evaluation:
    correct = np.array([right == "1" for right in values["correct"]], dtype=bool)
    return Evaluation(**values | {"rows": np.array(values["rows"], dtype=np.int64), "correct": correct})


def save_correct(folder: Path, found: Evaluation) -> None:
    """Write folder/correct.npy, (N,) bool in row order: true where a val sample was classified right."""
    with atomic_write(folder / "correct.npy") as file:
        np.save(file, found.correct)


def write_curve(ctx: StageContext, prefix: str) -> float | None:
    """Write the metrics logged under `prefix` as reports/<stage>/curve.csv; return the median images/s."""
    if not distributed.is_main():
        return None
    rows = ctx.curve([prefix + name for name in CURVE])
    rows = [{name.removeprefix(prefix): value for name, value in row.items()} for row in rows]
    _write_curve(ctx.stage, rows)
    rates = sorted(row["images_per_second"] for row in rows if "images_per_second" in row)
    return rates[len(rates) // 2] if rates else None


def write_blocks(ctx: StageContext, results: list[dict[str, Any]]) -> None:
    """Write top-1 over the number of tuned blocks as CSV and PNG, and the curve of the largest."""
    if not distributed.is_main():
        return
    folder = REPORTS / "partial"
    columns = ("blocks", "epochs", "top1", "top1_low", "top1_high")
    write_csv(folder / "blocks.csv", [{name: row[name] for name in columns} for row in results])
    partial_curve(folder / "blocks.png", results, title="Partial fine-tuning")
    ctx.run.picture(folder / "blocks.png")
    if results:
        largest = max(results, key=lambda row: row["blocks"])
        write_curve(ctx, f"blocks_{largest['blocks']:g}_epochs_{largest['epochs']}/")


def skip(ctx: StageContext, folder: Path | None = None) -> bool:
    """Return True where there are no labels to evaluate by; the stage's files and run then say so."""
    if ctx.can_evaluate:
        return False
    if distributed.is_main():
        ctx.run.tags({"skipped": NO_LABELS})
        if folder is not None:
            write_text(folder / "SKIPPED.txt", NO_LABELS + "\n")
        _write_curve(ctx.stage, [])
        if ctx.stage == "partial":
            write_blocks(ctx, [])
        ctx.write_metrics({"skipped": NO_LABELS})
    return True


def _write_curve(stage: str, rows: list[dict[str, float]]) -> None:
    if stage != "knn":
        write_csv(REPORTS / stage / "curve.csv", rows or [{"step": 0}])
