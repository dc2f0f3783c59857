"""Curves: losses and accuracies over steps, top-1 over blocks, precision over recall."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mae.report.plots.canvas import ACCENT, INK, SECOND, line, save, stacked_axes


def training_curve(path: Path, rows: Sequence[Mapping[str, float]], *, title: str) -> None:
    """Draw the loss over steps and, below it, the online probe's accuracy where there is one."""
    loss = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    probe = [(row["step"], 100 * row["knn_top1"]) for row in rows if "knn_top1" in row]
    figure, axes = stacked_axes(rows=2 if probe else 1)
    line(axes[0], loss, ACCENT)
    axes[0].set(ylabel="loss", title=title)
    if probe:
        line(axes[1], probe, SECOND, marker="o")
        axes[1].set(ylabel="online kNN top-1, %")
    axes[-1].set(xlabel="step")
    save(figure, path)


def value_curve(
    path: Path, points: Sequence[tuple[float, float]], *, across: str, up: str, title: str
) -> None:
    """Draw one line; across, up: the names of the axes."""
    figure, axes = stacked_axes()
    line(axes[0], points, ACCENT)
    axes[0].set(xlabel=across, ylabel=up, title=title)
    save(figure, path)


def partial_curve(path: Path, rows: Sequence[Mapping[str, float]], *, title: str) -> None:
    """Draw top-1 over the number of fine-tuned blocks (arXiv 2111.06377, figure 9), with its intervals."""
    figure, axes = stacked_axes()
    blocks = [row["blocks"] for row in rows]
    top1 = np.array([100 * row["top1"] for row in rows])
    low = np.array([100 * row["top1_low"] for row in rows])
    high = np.array([100 * row["top1_high"] for row in rows])
    axes[0].errorbar(
        blocks, top1, yerr=np.abs([top1 - low, high - top1]), color=ACCENT, marker="o", capsize=3
    )
    axes[0].set(xlabel="blocks fine-tuned", ylabel="top-1, %", title=title)
    axes[0].set_xticks(blocks, [f"{block:g}" for block in blocks])
    save(figure, path)


def compared_curves(
    path: Path, rows: Sequence[Mapping[str, float]], columns: Mapping[str, str], *, title: str
) -> None:
    """Draw the losses of several trainings over steps; columns: name of a training -> its column."""
    figure, axes = stacked_axes()
    for (name, column), colour in zip(columns.items(), (ACCENT, SECOND), strict=False):
        line(axes[0], [(r["step"], r[column]) for r in rows if column in r], colour, label=name)
    axes[0].set(xlabel="step", ylabel="loss", title=title)
    axes[0].legend(frameon=False)
    save(figure, path)


def precision_recall(path: Path, rows: Sequence[Mapping[str, float]], *, title: str) -> None:
    """Draw precision over recall at IoU .5, at .75, and as the mean over COCO's ten thresholds."""
    figure, axes = stacked_axes()
    names = {"precision_50": "IoU .50", "precision_75": "IoU .75", "precision": "IoU .50 to .95"}
    for (column, name), colour in zip(names.items(), (SECOND, INK, ACCENT), strict=True):
        line(axes[0], [(row["recall"], row[column]) for row in rows], colour, label=name)
    axes[0].set(xlabel="recall", ylabel="precision", title=title, xlim=(0, 1), ylim=(0, 1.02))
    axes[0].legend(frameon=False)
    save(figure, path)
