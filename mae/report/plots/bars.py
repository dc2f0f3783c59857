"""Bars and histograms: figures of classes, and distributions of images before and new."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mae.report.plots.canvas import ACCENT, FAINT, INK, pyplot, save


def class_bars(path: Path, rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Draw the IoU of each class, best first; of more than 60 the first and last 30."""
    ranked = sorted(rows, key=lambda row: row["IoU"])
    ranked = ranked if len(ranked) <= 60 else [*ranked[:30], *ranked[-30:]]
    figure, axes = pyplot().subplots(figsize=(6.4, 1.2 + 0.22 * len(ranked)), layout="constrained")
    axes.barh([row["class"] for row in ranked], [100 * row["IoU"] for row in ranked], color=ACCENT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", labelsize=8)
    axes.set(xlabel="IoU, %", title=title)
    save(figure, path)


def share_bars(path: Path, rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Draw the shares of classes before and among new images, a pair of bars each.

    rows: class, before, new.
    """
    figure, axes = pyplot().subplots(figsize=(6.4, 1.6 + 0.26 * len(rows)), layout="constrained")
    places = np.arange(len(rows))
    for shift, side, colour in ((-0.2, "before", FAINT), (0.2, "new", ACCENT)):
        axes.barh(places + shift, [100 * row[side] for row in rows], height=0.4, color=colour, label=side)
    axes.set_yticks(places, [row["class"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="share of the images, %", title=title)
    axes.legend(frameon=False)
    save(figure, path)


def histograms(path: Path, columns: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str) -> None:
    """Draw distributions of values, before and new, over the same bins; columns: name -> (before, new)."""
    across = 3
    figure, grid = pyplot().subplots(
        -(-len(columns) // across), across, figsize=(9, 5), squeeze=False, layout="constrained"
    )
    for axis, (name, sides) in zip(grid.flat, columns.items(), strict=False):
        bins = np.histogram_bin_edges(np.concatenate(sides), bins=24)
        for values, label, colour in zip(sides, ("before", "new"), (INK, ACCENT), strict=True):
            if len(values):
                weights = np.full(len(values), 100 / len(values))
                filled = label == "new"
                axis.hist(
                    values, bins, weights=weights, color=colour, label=label,
                    histtype="stepfilled" if filled else "step", alpha=0.5 if filled else 1,
                )  # fmt: skip
        axis.set(xlabel=name, ylabel="images, %")
        axis.spines[["top", "right"]].set_visible(False)
    grid.flat[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, color=INK)
    save(figure, path)
