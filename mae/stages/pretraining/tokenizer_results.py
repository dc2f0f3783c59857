"""The results of the stage `tokenizer` next to its weights: figures on val, a curve, rebuilt images."""

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


def write_results(ctx: StageContext, tokenizer: Any, steps: int, fitted: Fitted | None) -> None:
    """Write metrics.json, curve.csv and pictures to reports/tokenizer; all ranks call it together."""
    kind = ctx.params.tokenizer.kind
    figures = _figures(ctx, tokenizer)
    if not distributed.is_main():
        return
    shutil.rmtree(FOLDER / "pictures", ignore_errors=True)
    (FOLDER / "pictures").mkdir(parents=True)
    rate = _curve(ctx, tokenizer) if fitted is None else _training_curve(ctx)
    _draw(ctx, tokenizer, FOLDER / "pictures" / "rebuilt.png")
    for picture in sorted((FOLDER / "pictures").iterdir()):
        ctx.run.picture(picture)
    values = {"kind": kind, **figures, "steps": steps, "pictures_note": NOTES[kind], **rate}
    if fitted is not None:
        values["attempts"] = fitted.attempt + 1
    ctx.write_metrics(values)


@torch.no_grad()
def _figures(ctx: StageContext, tokenizer: Any) -> dict[str, Any]:
    """Compute the mean squared error of rebuilt images over a split, and the use of the codes."""
    sums = torch.zeros(2, dtype=torch.float64)
    counts = torch.zeros(getattr(tokenizer, "num_codes", 0), dtype=torch.float64)
    for batch in ctx.evaluation_batches(ctx.index.viewed):
        images = ctx.normalize(batch["images"].to(ctx.device, non_blocking=True))
        error = tokenizer(images)["error"].item()
        sums += torch.tensor([error * len(images), len(images)], dtype=torch.float64)
        if len(counts):
            counts += tokenizer.encode(images).flatten().bincount(minlength=len(counts)).cpu()
    error, samples = (distributed.mean(sums) * distributed.world_size()).tolist()
    found = {"error": error / samples, "samples": round(samples), "split": ctx.index.viewed.name}
    if not len(counts):
        return found | {
            "explained_variance": tokenizer.explained.item(),
            "components": len(tokenizer.components),
        }
    return found | code_use(distributed.mean(counts))


def code_use(counts: Tensor) -> dict[str, Any]:
    """Return the number of codes in use and their perplexity, from the count of each code (K,)."""
    shares = counts[counts > 0] / counts.sum()
    return {
        "codes": len(counts),
        "codes_used": len(shares),
        "code_perplexity": (-(shares * shares.log()).sum()).exp().item(),
    }


def _training_curve(ctx: StageContext) -> dict[str, float]:
    """Write the error over steps as table and picture; return the median images per second."""
    rows = ctx.curve(("error", "loss", "lr", "grad_norm", "images_per_second"))
    write_csv(FOLDER / "curve.csv", rows)
    points = [(row["step"], row["error"]) for row in rows if "error" in row]
    title = f"Tokenizer: {ctx.params.tokenizer.kind}"
    value_curve(FOLDER / "pictures" / "curve.png", points, across="step", up="squared error", title=title)
    rates = sorted(row["images_per_second"] for row in rows if "images_per_second" in row)
    return {"images_per_second": rates[len(rates) // 2]}


def _curve(ctx: StageContext, tokenizer: Any) -> dict[str, float]:
    """Write the share of the variance that the first components explain, by their number."""
    shares = (
        tokenizer.variances.double().cumsum(0) / tokenizer.variances.sum() * tokenizer.explained
    ).tolist()
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
def _draw(ctx: StageContext, tokenizer: Any, path: Path) -> None:
    """Draw original images next to the rebuilt ones."""
    batch = next(ctx.evaluation_batches(ctx.index.viewed, samples=PICTURES, alone=True))
    images = ctx.normalize(batch["images"].to(ctx.device))
    rebuilt = unpatchify(tokenizer.round_trip(images).float(), tokenizer.patch_size, tokenizer.grid)
    both = torch.stack([ctx.normalize.undo(one) for one in (images, rebuilt)], dim=1)
    note = NOTES[ctx.params.tokenizer.kind]
    panels(path, both.cpu().numpy() / 255, ("original", "rebuilt"), caption=note)
