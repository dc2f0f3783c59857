"""Plots show every value, and are the same bytes for the same values."""

import numpy as np
import pytest
from PIL import Image

from mae.report.plots.curves import partial_curve, training_curve
from mae.report.plots.panels import panels

ROWS = [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 0.5, "knn_top1": 0.3}]


@pytest.mark.parametrize(("count", "channels"), [(1, 3), (2, 1), (5, 3), (8, 3)])
def test_every_panel_is_drawn(tmp_path, count, channels):
    pictures = np.zeros((count, 3, channels, 8, 12))
    pictures[:, 0, 0] = 1  # the originals are red, or white
    panels(tmp_path / "p.png", pictures, ["original", "masked", "reconstruction"], caption="how")
    with Image.open(tmp_path / "p.png") as file:
        drawn = np.asarray(file.convert("RGB")).astype(int)
    wanted = (255, 0, 0) if channels == 3 else (255, 255, 255)
    black = (drawn == 0).all(-1)
    bright = (drawn == wanted).all(-1)
    assert black.sum() > 100 * count
    assert bright.sum() > 100 * count


def test_pictures_have_the_same_bytes_again(tmp_path):
    for name in ("a.png", "b.png"):
        training_curve(tmp_path / name, ROWS, title="loss")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_partial_curve_has_a_mark_for_every_number_of_blocks(tmp_path):
    rows = [{"blocks": b, "top1": 0.5, "top1_low": 0.4, "top1_high": 0.6} for b in (0, 0.5, 4)]
    partial_curve(tmp_path / "blocks.png", rows, title="partial")
    with Image.open(tmp_path / "blocks.png") as drawn:
        blue = np.asarray(drawn.convert("RGB")).astype(int)
    assert (abs(blue - (0x0B, 0x6B, 0xCB)).sum(-1) < 30).sum() > 300
