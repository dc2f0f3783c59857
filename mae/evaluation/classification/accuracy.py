"""Accuracy over every sample, each counted once, on any number of processes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mae import distributed


class ModelWithLogits(Protocol):
    """A model that can be evaluated: normalised images (N, C, H, W) -> logits (N, classes)."""

    def logits(self, images: Tensor) -> Tensor: ...

    def eval(self) -> Any: ...


@dataclass(frozen=True)
class Evaluation:
    """Fractions of right answers over `count` samples; `correct` (bool) and `rows` are in row order.

    top5 counts the best min(5, classes) answers. loss is the mean cross-entropy, None for votes. skipped
    counts samples that could not be decoded.
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
    model: ModelWithLogits,
    batches: Iterable[Mapping[str, Any]],
    num_classes: int,
    *,
    normalize: Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
    precision: str = "fp32",
) -> Evaluation:
    """Evaluate `model` (left in evaluation mode) over this rank's batches; every rank gets the whole result.

    batches: {"images": uint8 (n, C, H, W), "labels": (n,), "rows": (n,), "skipped": int}. A row that occurs
    twice, on one rank or several, counts once. Raises ValueError without samples or for a label that is no
    class.
    """
    model.eval()
    device = torch.device(device)
    tables: list[Tensor] = []
    skipped = 0
    for batch in batches:
        images = normalize(batch["images"].to(device, non_blocking=True))
        labels = batch["labels"].to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model.logits(images)
        logits = logits.float()
        known = labels.clamp(0, logits.shape[1] - 1)  # `summarise` refuses other labels, of all ranks at once
        loss = F.cross_entropy(logits, known, reduction="none")
        tables.append(answer_table(logits, labels, batch["rows"], loss))
        skipped += int(batch.get("skipped", 0))
    return summarise(tables, num_classes, skipped)


def summarise(tables: list[Tensor], num_classes: int, skipped: int, with_loss: bool = True) -> Evaluation:
    """Merge the (n, 5) tables of `answer_table` of all ranks into one Evaluation."""
    table = torch.cat(tables).cpu() if tables else torch.zeros(0, 5, dtype=torch.float64)
    whole = distributed.gather(table).numpy()
    skipped = int(distributed.gather(torch.tensor([skipped])).sum())
    _, once = np.unique(whole[:, 0], return_index=True)
    rows, labels, loss, first, fifth = whole[once].T
    if not len(rows):
        raise ValueError(f"nothing to evaluate: no sample was read, {skipped} could not be decoded")
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


def answer_table(scores: Tensor, labels: Tensor, rows: Tensor, loss: Tensor | None = None) -> Tensor:
    """Tabulate answers: scores (n, classes) -> (n, 5) float64 on their device.

    Columns: row, label, loss (0 without one), whether the first answer is right, whether one of five is.
    """
    best = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    loss = torch.zeros(len(labels), device=scores.device) if loss is None else loss
    columns = (rows.to(scores.device), labels, loss, best[:, 0], best.any(1))
    return torch.stack([column.double() for column in columns], dim=1)
