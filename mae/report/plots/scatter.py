"""Points in two dimensions, coloured by class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mae.report.plots.canvas import INK, pyplot, save


def scatter(
    path: Path, places: Mapping[str, np.ndarray], labels: Any, classes: Sequence[str], *, title: str
) -> None:
    """Draw sets of points side by side; places: name -> (N, 2).

    labels (N,) colour the points by class, None means one colour; above ten classes they repeat, unnamed.
    """
    figure, axes = pyplot().subplots(
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
    save(figure, path)
