"""Facts about targets."""

import pytest
import torch
from torch.testing import assert_close

from mae.models.patches import patchify
from mae.models.targets import TARGETS, normalised_pixels, pixels, squared_error, unnormalise


def test_pixels_are_the_patches():
    images = torch.randn(2, 3, 8, 8)
    assert_close(pixels(images, 4), patchify(images, 4))


def test_a_normalised_patch_has_mean_zero_and_unbiased_variance_one():
    target = normalised_pixels(torch.randn(2, 3, 8, 8, dtype=torch.float64) * 3 + 1, 4)
    assert_close(target.mean(-1), torch.zeros(2, 4, dtype=torch.float64))
    assert_close(target.var(-1), torch.ones(2, 4, dtype=torch.float64), rtol=1e-5, atol=0)


def test_a_flat_patch_normalises_to_zero():
    assert normalised_pixels(torch.full((1, 3, 4, 4), 0.7), 4).abs().max() < 1e-3


def test_the_epsilon_stands_inside_the_square_root():
    images = torch.full((1, 1, 2, 2), 0.0, dtype=torch.float64)
    images[0, 0, 0, 0] = 0.002  # unbiased variance 1e-6
    assert normalised_pixels(images, 2)[0, 0, 0].item() == pytest.approx(0.0015 / 2e-6**0.5)


def test_unnormalise_undoes_normalised_pixels():
    images = torch.randn(2, 3, 8, 8)
    assert_close(unnormalise(normalised_pixels(images, 4), patchify(images, 4)), patchify(images, 4))


def test_predicting_the_mean_of_normalised_patches_costs_one():
    target = normalised_pixels(torch.randn(4, 3, 16, 16), 8)
    count = target.shape[-1]
    cost = squared_error(torch.zeros_like(target), target)
    assert cost.item() == pytest.approx((count - 1) / count, rel=1e-4)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_is_one_row_per_patch_and_costs_nothing_against_itself(name):
    target = TARGETS[name]
    values = target.of(torch.randn(2, 5, 8, 12), (4, 2))
    assert values.shape[:2] == (2, 12)
    assert target.loss(values, values).item() == 0
