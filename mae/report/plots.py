"""PNG pictures: twins of the `dvc plots`, and panels of images. Drawn without a screen."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mae.files import atomic_path, write_text

INK, ACCENT, SECOND, FAINT = "#24292f", "#0b6bcb", "#c2410c", "#d0d7de"


def read_csv(path: Path) -> list[dict[str, float]]:
    """Rows of a CSV of numbers; an empty cell is absent from its row."""
    with path.open(newline="") as file:
        return [{key: float(cell) for key, cell in row.items() if cell != ""} for row in csv.DictReader(file)]


def write_csv(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Rows with the union of their keys as columns, as they appear; a missing value is an empty cell."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def training_curve(path: Path, rows: Sequence[Mapping[str, float]], *, title: str) -> None:
    """Loss over steps; the online probe's accuracy, where there is one, below it."""
    loss = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    probe = [(row["step"], 100 * row["knn_top1"]) for row in rows if "knn_top1" in row]
    figure, axes = _figure(rows=2 if probe else 1)
    _line(axes[0], loss, ACCENT)
    axes[0].set(ylabel="loss", title=title)
    if probe:
        _line(axes[1], probe, SECOND, marker="o")
        axes[1].set(ylabel="online kNN top-1, %")
    axes[-1].set(xlabel="step")
    _save(figure, path)


def value_curve(
    path: Path, points: Sequence[tuple[float, float]], *, across: str, up: str, title: str
) -> None:
    """One line; across, up: what the axes are called."""
    figure, axes = _figure()
    _line(axes[0], points, ACCENT)
    axes[0].set(xlabel=across, ylabel=up, title=title)
    _save(figure, path)


def partial_curve(path: Path, rows: Sequence[Mapping[str, float]], *, title: str) -> None:
    """Top-1 over the number of fine-tuned blocks (arXiv 2111.06377, figure 9), with its intervals."""
    figure, axes = _figure()
    blocks = [row["blocks"] for row in rows]
    top1 = np.array([100 * row["top1"] for row in rows])
    low = np.array([100 * row["top1_low"] for row in rows])
    high = np.array([100 * row["top1_high"] for row in rows])
    axes[0].errorbar(
        blocks, top1, yerr=np.abs([top1 - low, high - top1]), color=ACCENT, marker="o", capsize=3
    )
    axes[0].set(xlabel="blocks fine-tuned", ylabel="top-1, %", title=title)
    axes[0].set_xticks(blocks, [f"{block:g}" for block in blocks])
    _save(figure, path)


def compared_curves(
    path: Path, rows: Sequence[Mapping[str, float]], columns: Mapping[str, str], *, title: str
) -> None:
    """Losses of several trainings over steps; columns: what each is called -> its column."""
    figure, axes = _figure()
    for (name, column), colour in zip(columns.items(), (ACCENT, SECOND), strict=False):
        _line(axes[0], [(r["step"], r[column]) for r in rows if column in r], colour, label=name)
    axes[0].set(xlabel="step", ylabel="loss", title=title)
    axes[0].legend(frameon=False)
    _save(figure, path)


def precision_recall(path: Path, rows: Sequence[Mapping[str, float]], *, title: str) -> None:
    """Precision over recall at IoU .5, at .75, and the mean over COCO's ten thresholds."""
    figure, axes = _figure()
    names = {"precision_50": "IoU .50", "precision_75": "IoU .75", "precision": "IoU .50 to .95"}
    for (column, name), colour in zip(names.items(), (SECOND, INK, ACCENT), strict=True):
        _line(axes[0], [(row["recall"], row[column]) for row in rows], colour, label=name)
    axes[0].set(xlabel="recall", ylabel="precision", title=title, xlim=(0, 1), ylim=(0, 1.02))
    axes[0].legend(frameon=False)
    _save(figure, path)


def class_bars(path: Path, rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """IoU of each class, best first; the first and last 30 of more than 60."""
    ranked = sorted(rows, key=lambda row: row["IoU"])
    ranked = ranked if len(ranked) <= 60 else [*ranked[:30], *ranked[-30:]]
    figure, axes = _pyplot().subplots(figsize=(6.4, 1.2 + 0.22 * len(ranked)), layout="constrained")
    axes.barh([row["class"] for row in ranked], [100 * row["IoU"] for row in ranked], color=ACCENT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", labelsize=8)
    axes.set(xlabel="IoU, %", title=title)
    _save(figure, path)


def share_bars(path: Path, rows: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """Shares of classes before and among new images, a pair of bars each; rows: class, before, new."""
    figure, axes = _pyplot().subplots(figsize=(6.4, 1.6 + 0.26 * len(rows)), layout="constrained")
    places = np.arange(len(rows))
    for shift, side, colour in ((-0.2, "before", FAINT), (0.2, "new", ACCENT)):
        axes.barh(places + shift, [100 * row[side] for row in rows], height=0.4, color=colour, label=side)
    axes.set_yticks(places, [row["class"] for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel="share of the images, %", title=title)
    axes.legend(frameon=False)
    _save(figure, path)


def histograms(path: Path, columns: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str) -> None:
    """How values are distributed, before and new, over the same bins; columns: name -> (before, new)."""
    across = 3
    figure, grid = _pyplot().subplots(
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
    _save(figure, path)


def empty(path: Path, why: str) -> None:
    """A picture that says why there is none."""
    figure, axes = _figure()
    axes[0].set_axis_off()
    axes[0].text(0.5, 0.5, why, ha="center", va="center", color=INK, fontsize=8)
    _save(figure, path)


def panels(path: Path, pictures: Any, columns: Sequence[str], *, caption: str) -> None:
    """Rows of named pictures side by side.

    pictures (N, K, C, H, W) in [0, 1], K as many as `columns`; one channel is drawn grey.
    """
    pictures = np.clip(np.asarray(pictures, dtype=np.float32), 0, 1)
    count, kinds, channels, height, width = pictures.shape
    across = 2 if count > 3 else 1  # two samples beside each other make a page, not a ribbon
    rows = -(-count // across)
    figure, axes = _grid(rows, kinds * across, height / width)
    for axis in axes.flat:
        axis.set_axis_off()
    for number in range(count):
        for kind in range(kinds):
            axis = axes[number // across, number % across * kinds + kind]
            image = pictures[number, kind].transpose(1, 2, 0)
            shown = image[..., 0] if channels == 1 else image[..., :3]
            axis.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if number < across:
                axis.set_title(columns[kind], fontsize=9, color=INK)
    figure.supxlabel(caption, fontsize=8, color=INK)
    _save(figure, path)


def heat(maps: Any, size: Sequence[int]) -> Any:
    """Maps (N, rows, columns), bright where they are large, as pictures (N, 3, *size) for `panels`."""
    import torch
    from matplotlib import colormaps

    bright = maps / maps.amax((1, 2), keepdim=True)
    large = torch.nn.functional.interpolate(bright[:, None], size=tuple(size), mode="nearest")[:, 0]
    return torch.from_numpy(colormaps["inferno"](large.numpy())[..., :3]).float().movedim(-1, 1)


def scatter(
    path: Path, places: Mapping[str, np.ndarray], labels: Any, classes: Sequence[str], *, title: str
) -> None:
    """Points side by side; places: name -> (N, 2). labels (N,), or None: their colours, by class.

    More than ten classes share the colours and are not named.
    """
    figure, axes = _pyplot().subplots(
        1, len(places), figsize=(4.2 * len(places) + 1, 4.2), squeeze=False, layout="constrained"
    )
    for axis, (name, points) in zip(axes[0], places.items(), strict=True):
        for number in [0] if labels is None else sorted(set(labels.tolist())):
            mine = slice(None) if labels is None else labels == number
            shown = None if labels is None else classes[number]
            axis.scatter(*points[mine].T, s=5, linewidths=0, color=f"C{number % 10}", label=shown)
        axis.set(title=name, xticks=[], yticks=[])
    if labels is not None and len(classes) <= 10:
        axes[0, -1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title, color=INK)
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _figure(rows: int = 1) -> tuple[Any, Any]:
    figure, axes = _pyplot().subplots(
        rows, 1, figsize=(6.4, 2.2 + 1.6 * rows), sharex=True, squeeze=False, layout="constrained"
    )
    for axis in axes[:, 0]:
        axis.grid(color=FAINT, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[:, 0]


def _grid(rows: int, columns: int, aspect: float) -> tuple[Any, Any]:
    side = min(1.6, 9.6 / columns)
    size = (side * columns, side * aspect * rows + 0.6)
    return _pyplot().subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")


def _line(
    axis: Any, points: Sequence[tuple[float, float]], colour: str, marker: str = "", label: str | None = None
) -> None:
    axis.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=colour,
        marker=marker,
        linewidth=1.4,
        label=label,
    )


def _save(figure: Any, path: Path) -> None:
    """Whole or not at all, and the same bytes for the same picture."""
    with atomic_path(path) as part:
        figure.savefig(part, dpi=130, metadata={"Software": None}, format="png")
    _pyplot().close(figure)
