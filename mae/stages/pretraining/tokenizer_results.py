"""What the stage `tokenizer` leaves beside the weights: figures on val, a curve, rebuilt images."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae import distributed
from mae.config.paths import REPORTS
from mae.engine.loop import Fitted
from mae.files import write_csv
from mae.models.patches import unpatchify
from mae.report.plots.curves import value_curve
from mae.report.plots.panels import panels
from mae.stages.context.stage_context import PICTURES, StageContext

FOLDER = REPORTS / "tokenizer"
NOTES = {
    "kmeans": "each patch has the mean and contrast of the original: a code says its pattern alone",
    "pca": "each patch is the sum of its first principal components",
    "palette": "each patch has the colour of the palette that is nearest to its mean",
    "fsq": "images go through the tokenizer's own view of 8 pixels a code",
}


def write_results(ctx: StageContext, made: Any, steps: int, fitted: Fitted | None) -> None:
    """reports/tokenizer: metrics.json, curve.csv and pictures; all ranks come here together."""
    kind = ctx.params.tokenizer.kind
    figures = _figures(ctx, made)
    if not distributed.is_main():
        return
    shutil.rmtree(FOLDER / "pictures", ignore_errors=True)
    (FOLDER / "pictures").mkdir(parents=True)
    rate = _curve(ctx, made) if fitted is None else _training_curve(ctx)
    _draw(ctx, made, FOLDER / "pictures" / "rebuilt.png")
    for picture in sorted((FOLDER / "pictures").iterdir()):
        ctx.run.picture(picture)
    values = {"kind": kind, **figures, "steps": steps, "pictures_note": NOTES[kind], **rate}
    if fitted is not None:
        values["attempts"] = fitted.attempt + 1
    ctx.write_metrics(values)


@torch.no_grad()
def _figures(ctx: StageContext, made: Any) -> dict[str, Any]:
    """Over a split: the mean squared error of what comes back, and of the codes how many are in use, and how
    many there would be at the same entropy if all were used alike (perplexity)."""
    sums = torch.zeros(2, dtype=torch.float64)
    counts = torch.zeros(getattr(made, "num_codes", 0), dtype=torch.float64)
    for batch in ctx.evaluation_batches(ctx.index.viewed):
        images = ctx.normalize(batch["images"].to(ctx.device, non_blocking=True))
        error = made(images)["error"].item()
        sums += torch.tensor([error * len(images), len(images)], dtype=torch.float64)
        if len(counts):
            counts += made.encode(images).flatten().bincount(minlength=len(counts)).cpu()
    error, samples = (distributed.mean(sums) * distributed.world_size()).tolist()
    found = {"error": error / samples, "samples": round(samples), "split": ctx.index.viewed.name}
    if not len(counts):
        return found | {"explained_variance": made.explained.item(), "components": len(made.components)}
    return found | code_use(distributed.mean(counts))


def code_use(counts: Tensor) -> dict[str, Any]:
    """Of how often each code was found, (K,)."""
    shares = counts[counts > 0] / counts.sum()
    return {
        "codes": len(counts),
        "codes_used": len(shares),
        "code_perplexity": (-(shares * shares.log()).sum()).exp().item(),
    }


def _training_curve(ctx: StageContext) -> dict[str, float]:
    """The error over steps, as table and picture; returns the median images per second."""
    rows = ctx.curve(("error", "loss", "lr", "grad_norm", "images_per_second"))
    write_csv(FOLDER / "curve.csv", rows)
    points = [(row["step"], row["error"]) for row in rows if "error" in row]
    title = f"Tokenizer: {ctx.params.tokenizer.kind}"
    value_curve(FOLDER / "pictures" / "curve.png", points, across="step", up="squared error", title=title)
    rates = sorted(row["images_per_second"] for row in rows if "images_per_second" in row)
    return {"images_per_second": rates[len(rates) // 2]}


def _curve(ctx: StageContext, made: Any) -> dict[str, float]:
    """Of principal components: the share of the variance that the first so many explain."""
    shares = (made.variances.double().cumsum(0) / made.variances.sum() * made.explained).tolist()
    rows = [{"step": number, "explained": share} for number, share in enumerate(shares, 1)]
    write_csv(FOLDER / "curve.csv", rows)
    value_curve(
        FOLDER / "pictures" / "curve.png",
        [(row["step"], 100 * row["explained"]) for row in rows],
        across="components",
        up="variance explained, %",
        title="Principal components of patches",
    )
    return {}


@torch.no_grad()
def _draw(ctx: StageContext, made: Any, path: Path) -> None:
    """Originals beside what comes back of them."""
    batch = next(ctx.evaluation_batches(ctx.index.viewed, samples=PICTURES, alone=True))
    images = ctx.normalize(batch["images"].to(ctx.device))
    rebuilt = unpatchify(made.round_trip(images).float(), made.patch_size, made.grid)
    both = torch.stack([ctx.normalize.undo(one) for one in (images, rebuilt)], dim=1)
    note = NOTES[ctx.params.tokenizer.kind]
    panels(path, both.cpu().numpy() / 255, ("original", "rebuilt"), caption=note)
