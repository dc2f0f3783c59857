"""HOG of patches equals a plain loop over pixels, and forgets brightness and contrast."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from mae.models.hog import cell_of, hog, hog_width

IMAGES = torch.randn(2, 3, 32, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def by_hand(image: np.ndarray, patch: int, cell: int) -> np.ndarray:
    """One image (C, H, W), pixel by pixel -> (L, T)."""
    channels, height, width = image.shape
    histograms = np.zeros((height // cell, width // cell, channels, 9))
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                dy = image[c, y + 1, x] - image[c, y - 1, x] if 0 < y < height - 1 else 0.0
                dx = image[c, y, x + 1] - image[c, y, x - 1] if 0 < x < width - 1 else 0.0
                angle = math.degrees(math.atan2(dy, dx)) % 180
                histograms[y // cell, x // cell, c, int(angle // 20) % 9] += math.hypot(dx, dy)
    lengths = np.sqrt((histograms**2).sum(-1, keepdims=True))
    histograms = np.divide(histograms, lengths, out=np.zeros_like(histograms), where=lengths > 0)
    per = patch // cell
    patches = [
        histograms[y : y + per, x : x + per].ravel()
        for y in range(0, height // cell, per)
        for x in range(0, width // cell, per)
    ]
    return np.stack(patches)


@pytest.mark.parametrize(("patch", "cell"), [(16, 8), (8, 8), (4, 4)])
def test_it_equals_a_loop_over_pixels(patch, cell):
    expected = np.stack([by_hand(image, patch, cell) for image in IMAGES.numpy()])
    assert cell_of(patch) == (cell, cell)
    assert expected.shape[-1] == hog_width(patch, 3)
    assert_close(hog(IMAGES, patch).numpy(), expected, rtol=1e-10, atol=1e-10)


def test_a_16_pixel_patch_has_108_values_and_a_14_pixel_patch_cells_of_7():
    assert hog_width(16, 3) == 108
    assert cell_of((14, 14)) == (7, 7)


def test_brightness_and_contrast_do_not_matter():
    assert_close(hog(3 * IMAGES + 7, 8), hog(IMAGES, 8))


def test_a_cells_histogram_has_length_1_and_a_flat_one_is_0():
    lengths = hog(IMAGES, 8).unflatten(2, (3, 9)).norm(dim=-1)
    assert_close(lengths, torch.ones_like(lengths))
    assert hog(torch.ones(1, 3, 16, 16), 8).abs().max() == 0


def test_stripes_vote_for_the_bin_of_their_gradient():
    across = torch.arange(16.0).sin().expand(1, 1, 16, 16)
    assert_close(hog(across, 8)[..., 0], torch.ones(1, 4))
    assert_close(hog(across.mT, 8)[..., 4], torch.ones(1, 4))
