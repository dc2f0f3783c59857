"""iGPT: no token sees what it is to predict, nor anything after it."""

import pytest
from methods.small import small_encoder, some_images
from torch.testing import assert_close

from mae.methods.igpt import IGPT
from mae.models.patches import patchify, unpatchify
from mae.models.targets import build_target


def made(**encoder):
    return IGPT(small_encoder(**encoder)).double()


def test_a_patch_is_predicted_from_the_patches_before_it_alone():
    method, images = made(), some_images()
    before = method.predict(images)
    assert before.shape == (3, 16, method.target.width)
    for at in (0, 7, 15):
        patches = patchify(images, 4).clone()
        patches[:, at] += 5
        after = method.predict(unpatchify(patches, 4, (4, 4)))
        assert_close(after[:, : at + 1], before[:, : at + 1], rtol=0, atol=1e-12)
        if at < 15:
            assert ((after - before)[:, at + 1 :].abs().amax((0, 2)) > 1e-6).all()


def test_the_loss_is_the_mean_cross_entropy_of_the_next_colour():
    method, images = made(), some_images()
    classes = method.target(images)
    chances = method.predict(images).log_softmax(-1)
    expected = -chances.gather(2, classes[..., None]).mean()
    assert_close(method(images)["loss"], expected)


def test_the_papers_sequence_is_a_colour_for_each_of_32_by_32_pixels():
    method = made(img_size=32, patch_size=1)
    assert method.predict(some_images(1, side=32)).shape == (1, 1024, 512)


def test_a_target_of_real_values_is_refused():
    encoder = small_encoder()
    with pytest.raises(ValueError, match="iGPT predicts classes"):
        IGPT(encoder, target=build_target("pixels", encoder))
