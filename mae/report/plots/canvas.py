"""The canvas of all plots: colours, axes, and the one way to save a figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae.files import atomic_path

INK, ACCENT, SECOND, FAINT = "#24292f", "#0b6bcb", "#c2410c", "#d0d7de"


def pyplot() -> Any:
    """Import pyplot for drawing without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def stacked_axes(rows: int = 1) -> tuple[Any, Any]:
    """Make a figure with `rows` axes below each other, which share x."""
    figure, axes = pyplot().subplots(
        rows, 1, figsize=(6.4, 2.2 + 1.6 * rows), sharex=True, squeeze=False, layout="constrained"
    )
    for axis in axes[:, 0]:
        axis.grid(color=FAINT, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[:, 0]


def line(
    axis: Any, points: Sequence[tuple[float, float]], colour: str, marker: str = "", label: str | None = None
) -> None:
    """Draw points (x, y) as a line."""
    axis.plot(
        [x for x, _ in points],
        [y for _, y in points],
        color=colour,
        marker=marker,
        linewidth=1.4,
        label=label,
    )


def empty_picture(path: Path, reason: str) -> None:
    """Draw the reason why there is no picture."""
    figure, axes = stacked_axes()
    axes[0].set_axis_off()
    axes[0].text(0.5, 0.5, reason, ha="center", va="center", color=INK, fontsize=8)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Save as PNG, whole or not at all; the same bytes for the same picture."""
    with atomic_path(path) as part:
        figure.savefig(part, dpi=130, metadata={"Software": None}, format="png")
    pyplot().close(figure)
