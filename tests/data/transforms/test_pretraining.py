"""Augmentations by name: each gives what its name says, for as many views as a method takes."""

import pickle

import numpy as np
import pytest
import torch

from mae.data.transforms.pretraining import AUGMENTATIONS, TwoViews, augmentation


@pytest.fixture
def image(picture):
    return torch.from_numpy(np.array(picture(0, 90, 70))).permute(2, 0, 1)


def views_of(transform, image, seed=0):
    torch.manual_seed(seed)
    made = transform(image)
    return made if isinstance(made, tuple) else (made,)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("size", [24, (24, 32)])
def test_every_name_gives_uint8_views_of_the_asked_size_and_can_be_sent_away(image, name, size):
    transform, calls = augmentation(name, size, views=2)
    transform = pickle.loads(pickle.dumps(transform))
    for given in (image, image[:, :5, :3]):
        before = given.clone()
        views = views_of(transform, given)
        assert len(views) * calls == 2
        assert {(view.dtype, tuple(view.shape[1:])) for view in views} == {
            (torch.uint8, (24, 24) if size == 24 else size)
        }
        for one, same in zip(views, views_of(transform, given), strict=True):
            torch.testing.assert_close(one, same, rtol=0, atol=0)
        torch.testing.assert_close(given, before)


def test_only_none_without_flipping_gives_the_same_image_always(image):
    for name in AUGMENTATIONS:
        transform, _ = augmentation(name, 24, views=2, flip=False)
        made = {tuple(views_of(transform, image, seed)[0].flatten().tolist()) for seed in range(4)}
        assert len(made) == (1 if name == "none" else 4), name


def test_a_fixed_crop_keeps_the_scale_and_jitter_changes_the_colours_alone(image):
    flat = torch.tensor([200, 100, 50], dtype=torch.uint8)[:, None, None].expand(3, 64, 64)
    for name, changed in (("fixed_crop", False), ("crop", False), ("crop_jitter", True)):
        view = views_of(augmentation(name, 32)[0], flat)[0]
        assert (view[:, 0, 0].tolist() != [200, 100, 50]) == changed
        assert (view == view[:, :1, :1]).all()
    transform, _ = augmentation("fixed_crop", 56, flip=False)
    # 64 pixels are 56 * 256 / 224: nothing is resized, every crop is a window of the image itself.
    ramp = torch.arange(64, dtype=torch.uint8).expand(3, 64, 64)
    view = views_of(transform, ramp)[0]
    assert (view[0, 0].diff() == 1).all()


def test_the_first_view_is_always_blurred_and_the_second_one_solarized_now_and_then():
    stripes = torch.arange(64).remainder(2).mul(255).to(torch.uint8).expand(3, 64, 64)
    views = TwoViews(64, scale=(1.0, 1.0), flip=False).views
    ops = [[type(step).__name__ for step in view.transforms[1:]] for view in views]
    assert ops[0] == ops[1] == ["RandomApply", "RandomGrayscale", "RandomApply", "RandomSolarize"]
    chances = [[view.transforms[3].p, view.transforms[4].p] for view in views]
    assert chances == [[1.0, 0.0], [0.1, 0.2]]
    assert views[0].transforms[4].threshold == 128
    contrast = [np.mean([view(stripes).float().std().item() for _ in range(40)]) for view in views]
    assert contrast[0] < contrast[1]
    assert views[0].transforms[3].transforms[0].kernel_size == (7, 7)
    assert TwoViews(224).views[0].transforms[3].transforms[0].kernel_size == (23, 23)


def test_an_unknown_name_and_two_views_for_one_are_refused():
    with pytest.raises(ValueError, match="'mirror' is not one of none, fixed_crop, crop, crop_jitter, two_"):
        augmentation("mirror", 24)
    with pytest.raises(ValueError, match="makes 2 views of an image, the method takes 1"):
        augmentation("two_views", 24)
