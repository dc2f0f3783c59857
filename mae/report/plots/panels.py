"""Panels of images side by side, and maps as images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mae.report.plots.canvas import INK, pyplot, save


def panels(path: Path, pictures: Any, columns: Sequence[str], *, caption: str) -> None:
    """Draw rows of named pictures side by side.

    pictures (N, K, C, H, W) in [0, 1], K as many as `columns`; one channel is drawn grey.
    """
    pictures = np.clip(np.asarray(pictures, dtype=np.float32), 0, 1)
    count, kinds, channels, height, width = pictures.shape
    across = 2 if count > 3 else 1  # two samples next to each other make a page, not a ribbon
    rows = -(-count // across)
    figure, axes = grid(rows, kinds * across, height / width)
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
    save(figure, path)


def heat(maps: Any, size: Sequence[int]) -> Any:
    """Colour maps (N, rows, columns), bright where they are large: pictures (N, 3, *size) for `panels`."""
    import torch
    from matplotlib import colormaps

    bright = maps / maps.amax((1, 2), keepdim=True)
    large = torch.nn.functional.interpolate(bright[:, None], size=tuple(size), mode="nearest")[:, 0]
    return torch.from_numpy(colormaps["inferno"](large.numpy())[..., :3]).float().movedim(-1, 1)


def grid(rows: int, columns: int, aspect: float) -> tuple[Any, Any]:
    side = min(1.6, 9.6 / columns)
    size = (side * columns, side * aspect * rows + 0.6)
    return pyplot().subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
