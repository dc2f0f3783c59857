"""Facts about targets."""

import pytest
import torch
from torch.testing import assert_close

from mae.models.encoder import build
from mae.models.patches import patchify
from mae.models.targets import TARGETS, NormalisedPixels, Pixels, build_target, squared_error


def normalised_pixels(images, patch_size):
    return NormalisedPixels((patch_size, patch_size), images.shape[1] * patch_size**2)(images)


def test_pixels_are_the_patches():
    images = torch.randn(2, 3, 8, 8)
    assert_close(Pixels((4, 4), 48)(images), patchify(images, 4))


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


def test_a_picture_of_normalised_pixels_has_the_originals_mean_and_contrast():
    images = torch.randn(2, 3, 8, 8)
    target, patches = NormalisedPixels((4, 4), 48), patchify(images, 4)
    assert_close(target.as_pixels(target(images), patches), patches)


def test_predicting_the_mean_of_normalised_patches_costs_one():
    target = normalised_pixels(torch.randn(4, 3, 16, 16), 8)
    count = target.shape[-1]
    cost = squared_error(torch.zeros_like(target), target)
    assert cost.item() == pytest.approx((count - 1) / count, rel=1e-4)


@pytest.fixture(params=TARGETS)
def target(request):
    vit = build(
        "vit_tiny_patch16_224", img_size=(8, 12), patch_size=(4, 2), embed_dim=32, depth=1, num_heads=4
    )
    return build_target(request.param, vit)


def test_every_target_is_one_row_per_patch_and_costs_nothing_against_itself(target):
    values = target(torch.randn(2, 3, 8, 12))
    assert values.shape == (2, 12, target.width)
    assert target.loss(values, values).item() == 0


def test_a_target_is_frozen_and_stays_in_eval_mode(target):
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert not target.train().training


def test_an_unknown_target_is_named():
    with pytest.raises(ValueError, match="unknown target 'colour'"):
        build_target("colour", None)
