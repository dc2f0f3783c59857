"""The report of a sweep: reports/sweep/<axis>.csv, .md and .png, next to the paper's numbers."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mae.files import atomic_path, write_text
from pipelines.sweeping.axes import EVALUATIONS, Axis, Experiment, Position

FOLDER = Path("reports/sweep")
MAIN = {"detect": "box_AP", "segment": "mIoU"}  # of the other stages: top1
COST = {  # of pretraining: its name in the table, and the size of its unit
    "flops_per_image": ("GFLOPs/image", 1e9),
    "images_per_second": ("images/s", 1.0),
    "peak_memory": ("peak memory, GB", 1e9),
}
INK, ACCENT, FAINT = "#24292f", "#0b6bcb", "#d0d7de"
Row = dict[str, Any]


def row(experiment: Experiment, commit: str | None, read: Callable[[str, str], dict[str, Any] | None]) -> Row:
    """Return the row of one experiment: its position, each stage's main figure, the cost of pretraining.

    Args:
        commit: the commit of the experiment, None where it is not finished.
        read: reads a JSON file, by commit and path.
    """
    figures: Row = {"at": experiment.at, "seed": experiment.seed, "experiment": experiment.name}
    if commit is None:
        return figures
    for stage in experiment.stages:
        metrics = read(commit, f"reports/{stage}/metrics.json") or {}
        main = MAIN.get(stage, "top1")
        known = {stage: main, f"{stage}_low": f"{main}_low", f"{stage}_high": f"{main}_high"}
        figures |= {column: metrics[name] for column, name in known.items() if name in metrics}
    spent = read(commit, "reports/pretrain/metrics.json") or {}
    return figures | {name: spent[name] for name in COST if name in spent}


def write(root: Path, name: str, axis: Axis, rows: Sequence[Row]) -> list[Path]:
    """Write the three files of the axis `name`; return their paths."""
    folder = Path(root) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{ending}" for ending in ("csv", "md", "png")]
    columns = list(dict.fromkeys(["at", "seed", "experiment", *(key for row in rows for key in row)]))
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(files[0], table.getvalue())
    write_text(files[1], text(name, axis, rows))
    draw(files[2], axis, rows)
    return files


def text(name: str, axis: Axis, rows: Sequence[Row]) -> str:
    """Return the table in Markdown: a line for each value, with mean and deviation over its seeds."""
    stages, positions = _stages(rows), _by_position(rows)
    paper = _paper(axis)
    compared = [stage for stage in EVALUATIONS if any(stage in numbers for numbers in paper.values())]
    spent = [cost for cost in COST if any(cost in row for row in rows)]
    head = [
        axis.label,
        *(f"{EVALUATIONS[s]} %" for s in stages),
        *(f"paper, {EVALUATIONS[s]} %" for s in compared),
    ]
    lines = [head + [COST[cost][0] for cost in spent], ["---"] * len(head + spent)]
    for at, group in positions.items():
        line = [str(at), *(_mean_text([row[s] for row in group if s in row]) for s in stages)]
        line += [f"{paper[at][s]:g}" if s in paper.get(at, {}) else "" for s in compared]
        for cost in spent:
            values = [row[cost] / COST[cost][1] for row in group if cost in row]
            line.append(f"{statistics.median(values):,.4g}" if values else "")
        lines.append(line)
    seeds = max((len(group) for group in positions.values()), default=0)
    missing = [row["experiment"] for row in rows if not any(stage in row for stage in stages)]
    notes = [f"{seeds} seeds: mean ± standard deviation." if seeds > 1 else "One seed: no spread is known."]
    notes += [f"The paper's column: {axis.source}."] if compared else []
    notes += [axis.note] if axis.note else []
    if spent:
        notes.append(
            "Cost of pretraining: floating-point operations of forward and backward, images per second and "
            "peak memory (of the device; without one, of the process) where it ran, one process."
        )
    notes += [f"Not finished: {', '.join(missing)}."] if missing else []
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([f"# {axis.title}", body, f"![{axis.title}]({name}.png)", " ".join(notes)]) + "\n"


def draw(path: Path, axis: Axis, rows: Sequence[Row]) -> None:
    """Draw a panel for each protocol, fine-tuning on top, as in MAE's figures (arXiv 2111.06377, figure 5).

    Bars: standard deviation over seeds; with one seed, the bootstrap interval over validation images.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    order = ["finetune", "linear", *EVALUATIONS]
    stages = sorted(_stages(rows), key=lambda stage: order.index(stage) if stage in order else len(order))
    positions = _by_position(rows)
    numeric = all(isinstance(at, int | float) for at in positions)
    across: dict[Position, Any] = {at: at if numeric else number for number, at in enumerate(positions)}
    figure, grid = pyplot.subplots(
        max(1, len(stages)), 1, figsize=(6.4, 1.2 + 1.9 * max(1, len(stages))), sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for panel, stage in zip(grid[:, 0], stages, strict=False):
        shown = {at: [row for row in group if stage in row] for at, group in positions.items()}
        shown = {at: group for at, group in shown.items() if group}
        means = [100 * statistics.mean(row[stage] for row in group) for group in shown.values()]
        ends = [_bar(stage, group, mean) for group, mean in zip(shown.values(), means, strict=True)]
        panel.errorbar(
            [across[at] for at in shown], means, yerr=list(zip(*ends, strict=True)) or None, color=ACCENT,
            marker="o", capsize=3, linestyle="-" if numeric else "none",
        )  # fmt: skip
        for at, mean in zip(shown, means, strict=True):
            panel.annotate(f"{mean:.1f}", (across[at], mean), (5, 5), textcoords="offset points", fontsize=8)
        panel.set(ylabel=f"{EVALUATIONS[stage]}, %")
        panel.margins(x=0.09)  # room for the last number
        panel.grid(color=FAINT, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    grid[-1, 0].set_xticks(list(across.values()), [str(at) for at in across], rotation=0 if numeric else 20)
    grid[-1, 0].set(xlabel=axis.label)
    grid[0, 0].set_title(axis.title, color=INK)
    with atomic_path(path) as part:
        figure.savefig(part, dpi=130, metadata={"Software": None}, format="png")
    pyplot.close(figure)


def _bar(stage: str, rows: Sequence[Row], mean: float) -> tuple[float, float]:
    """Return the lengths of the error bar, down and up."""
    if len(rows) > 1:
        spread = 100 * statistics.stdev(row[stage] for row in rows)
        return spread, spread
    low, high = (100 * float(rows[0].get(f"{stage}_{end}", mean / 100)) for end in ("low", "high"))
    return max(0.0, mean - low), max(0.0, high - mean)


def _mean_text(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _stages(rows: Iterable[Row]) -> list[str]:
    return [name for name in EVALUATIONS if any(name in row for row in rows)]


def _by_position(rows: Iterable[Row]) -> dict[Position, list[Row]]:
    positions: dict[Position, list[Row]] = {}
    for one in rows:
        positions.setdefault(one["at"], []).append(one)
    return positions


def _paper(axis: Axis) -> dict[Position, dict[str, float]]:
    """Return the numbers of the paper by position; the demo's values at the same position share them."""
    return {value.at: value.paper for value in axis.values if value.paper}
