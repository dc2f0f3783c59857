"""Accuracy over every sample once, and how sure it is."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from mae import distributed


class Judged(Protocol):
    """What can be evaluated: normalised images (N, C, H, W) -> logits (N, classes)."""

    def logits(self, images: Tensor) -> Tensor: ...

    def eval(self) -> Any: ...


@dataclass(frozen=True)
class Evaluation:
    """Fractions of right answers over `count` samples; `correct` (bool) and `rows` are in row order.

    top5 counts the best min(5, classes) answers; loss is the mean cross-entropy, None where there is none;
    skipped counts samples that could not be decoded.
    """

    top1: float
    top5: float
    loss: float | None
    count: int
    correct: NDArray[np.bool_]
    rows: NDArray[np.int64]
    skipped: int


@torch.no_grad()
def evaluate(
    model: Judged,
    batches: Iterable[Mapping[str, Any]],
    num_classes: int,
    *,
    normalize: Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
    precision: str = "fp32",
) -> Evaluation:
    """Judge `model` (left in evaluation mode) over this rank's batches; every rank gets the whole result.

    batches: {"images": uint8 (n, C, H, W), "labels": (n,), "rows": (n,), "skipped": int}. Rows that come
    twice, on one rank or several, count once. Raises ValueError if nothing came or a label is no class.
    """
    model.eval()
    device = torch.device(device)
    found: list[Tensor] = []
    skipped = 0
    for batch in batches:
        images = normalize(batch["images"].to(device, non_blocking=True))
        labels = batch["labels"].to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model.logits(images)
        found.append(_judge(logits.float(), labels, batch["rows"]))
        skipped += int(batch.get("skipped", 0))
    return summarise(found, num_classes, skipped)


def summarise(found: list[Tensor], num_classes: int, skipped: int, with_loss: bool = True) -> Evaluation:
    """One Evaluation of all ranks out of the (n, 5) tables of `judge`."""
    table = torch.cat(found).cpu() if found else torch.zeros(0, 5, dtype=torch.float64)
    whole = distributed.gather(table).numpy()
    skipped = int(distributed.gather(torch.tensor([skipped])).sum())
    _, once = np.unique(whole[:, 0], return_index=True)
    rows, labels, loss, first, fifth = whole[once].T
    if not len(rows):
        raise ValueError(f"nothing to evaluate: no sample came, {skipped} could not be decoded")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"labels {labels.min():.0f} to {labels.max():.0f}, but there are {num_classes} classes"
        )
    return Evaluation(
        top1=float(first.mean()),
        top5=float(fifth.mean()),
        loss=float(loss.mean()) if with_loss else None,
        count=len(rows),
        correct=first.astype(bool),
        rows=rows.astype(np.int64),
        skipped=skipped,
    )


def _judge(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
    return judge(
        logits, labels, rows, F.cross_entropy(logits, labels.clamp(0, logits.shape[1] - 1), reduction="none")
    )


def judge(scores: Tensor, labels: Tensor, rows: Tensor, loss: Tensor | None = None) -> Tensor:
    """scores (n, classes) -> (n, 5) float64 on their device: row, label, loss, right first, right in five."""
    best = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    lost = torch.zeros(len(labels), device=scores.device) if loss is None else loss
    columns = (rows.to(scores.device), labels, lost, best[:, 0], best.any(1))
    return torch.stack([column.double() for column in columns], dim=1)


def bootstrap_interval(
    values: ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean of `values` (n,).

    A resample of n values with replacement is a multinomial draw of how often each distinct value comes:
    exact, and 50,000 right-or-wrong answers cost two counts a resample instead of 50,000 indices.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"a bootstrap needs a row of values, got shape {values.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    distinct, counts = np.unique(values, return_counts=True)
    draw = np.random.default_rng(seed)
    at_once = max(1, 4_000_000 // len(distinct))
    sizes = [min(at_once, resamples - done) for done in range(0, resamples, at_once)]
    shares = counts / len(values)
    means = [draw.multinomial(len(values), shares, size=size) @ distinct / len(values) for size in sizes]
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_gain(
    candidate: ArrayLike,
    champion: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """(gain, low, high): mean of candidate - champion over the same samples in order, and its interval.

    Raises ValueError if the two do not have the same number of samples.
    """
    ours, theirs = np.asarray(candidate, dtype=np.float64), np.asarray(champion, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"a paired comparison needs the same samples: {ours.shape} against {theirs.shape}")
    return float((ours - theirs).mean()), *bootstrap_interval(ours - theirs, confidence, resamples, seed)
