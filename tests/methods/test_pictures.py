"""Pictures of what a model fills in, honestly."""

import pytest
import torch
from torch.testing import assert_close

from mae.methods import METHODS
from mae.methods.pictures import pictures
from mae.models.patches import patchify
from mae.models.targets import build_target
from mae.models.vit import build

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(params=["normalised_pixels", "pixels"])
def method(request):
    torch.manual_seed(0)
    vit = build("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=32, depth=1, num_heads=4)
    return METHODS["mae"](
        vit,
        target=build_target(request.param, vit),
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=4,
    )


def normalise(images):
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std


def test_visible_patches_are_the_original_and_masked_ones_grey_or_predicted(method):
    images, noise = torch.rand(2, 3, 16, 16), torch.rand(2, 16)
    panels = pictures(method, normalise(images), noise, MEAN, STD).panels
    assert panels.shape == (2, 3, 3, 16, 16)
    assert panels.min() >= 0
    assert panels.max() <= 1
    assert_close(panels[:, 0], images)
    masked = method.masking.sample(images, noise).masked
    original, grey, filled = (patchify(panels[:, index], 4) for index in range(3))
    assert_close(grey[~masked], original[~masked])
    assert_close(filled[~masked], original[~masked])
    assert (grey[masked] == 0.5).all()
    assert (filled[masked] - original[masked]).abs().max() > 0.05


def test_a_perfect_prediction_gives_the_original_back(method, monkeypatch):
    images, noise = torch.rand(2, 3, 16, 16), torch.rand(2, 16)
    mask = method.masking.sample(images, noise)
    perfect = method.target(normalise(images))
    monkeypatch.setattr(method, "reconstruct", lambda images, noise: (perfect, mask))
    panels = pictures(method, normalise(images), noise, MEAN, STD).panels
    assert_close(panels[:, 2], images, atol=1e-5, rtol=0)


def test_the_training_mode_is_put_back(method):
    method.train()
    pictures(method, torch.rand(1, 3, 16, 16), None, MEAN, STD)
    assert method.training


def test_a_method_that_predicts_latents_shows_context_and_targets_and_reconstructs_nothing():
    vit = build("vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=32, depth=1, num_heads=4)
    method = METHODS["ijepa"](vit, predictor_embed_dim=32, predictor_depth=1, predictor_num_heads=4)
    images, noise = torch.rand(2, 3, 32, 32), torch.rand(2, *method.noise_shape)
    shown = pictures(method, normalise(images), noise, MEAN, STD)
    assert shown.columns == ("original", "masked", "targets")
    mask = method.sample_mask(images, noise)
    original, context, targets = (patchify(shown.panels[:, index], 4) for index in range(3))
    assert (context[mask.masked] == 0.5).all()
    assert_close(context[~mask.masked], original[~mask.masked])
    assert (targets[~mask.targets] == 0.5).all()
    assert_close(targets[mask.targets], original[mask.targets])
    assert "nothing is reconstructed" in method.picture_note
    assert "4 blocks of 11 masked patches" in method.picture_note
