"""Facts about targets."""

import copy

import pytest
import torch
from torch.testing import assert_close

from mae.models.patches import patchify
from mae.models.pca import Moments, PatchPCA
from mae.models.targets import HOG, TARGETS, NormalisedPixels, Pixels, build_target, squared_error
from mae.models.tokenizer import KMeans
from mae.models.vit import build


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


def encoder():
    return build(
        "vit_tiny_patch16_224", img_size=(8, 12), patch_size=(4, 2), embed_dim=32, depth=1, num_heads=4
    )


def images(count=2, **options):
    return torch.randn(count, 3, 8, 12, generator=torch.Generator().manual_seed(0), **options)


def fitted(kind):
    """The result that the stage `tokenizer` would have for that encoder."""
    if kind == "pca":
        pca = PatchPCA((2, 6), (4, 2), components=5)
        moments = Moments(24)
        moments.add(patchify(images(20), (4, 2)).flatten(0, 1))
        pca.take(moments)
        return pca
    tokenizer = KMeans((2, 6), (4, 2), codes=7)
    tokenizer.start(tokenizer.vectors(images(20)).flatten(0, 1), seed=0)
    return tokenizer


FITTED = {"pca": "pca", "tokens": "kmeans"}


@pytest.fixture(params=TARGETS)
def target(request):
    name = request.param
    return build_target(name, encoder(), fitted(FITTED[name]) if name in FITTED else None)


def test_every_target_has_a_row_or_classes_for_every_patch(target):
    values = target(images())
    assert values.shape[:2] == (2, 12)
    if target.classes is None:
        assert values.shape[2:] == (target.width,)
    else:
        assert values.dtype == torch.int64
        assert 0 <= values.min() <= values.max() < target.classes
        assert target.width == target.classes * values[0, 0].numel()


def exact(target, values):
    """The prediction that is right."""
    if target.classes is None:
        return values
    return 100 * torch.nn.functional.one_hot(values.reshape(2, 12, -1), target.classes).flatten(2).double()


def test_a_right_prediction_costs_nothing_and_a_wrong_one_something(target):
    values = target(images())
    right = exact(target, values)
    assert target.loss(right, values).item() == 0
    assert target.loss(right.flip(1), values).item() > 0


def test_a_loss_is_float32_or_float64(target):
    for dtype, loss in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        values = target(images(dtype=torch.float64 if dtype == torch.float64 else torch.float32))
        assert target.loss(torch.zeros(2, 12, target.width, dtype=dtype), values).dtype == loss


def test_predictions_are_drawn_as_pixels_or_not_at_all(target):
    patches = patchify(images(), (4, 2))
    right = exact(target, target(images())).float()
    drawn, wrong = target.as_pixels(right, patches), target.as_pixels(right.flip(1), patches)
    assert target.note
    if drawn is not None:
        assert drawn.shape == patches.shape
        assert (drawn - patches).square().mean() < (wrong - patches).square().mean()
    else:
        assert isinstance(target, HOG)


def test_a_target_is_frozen_and_stays_in_eval_mode(target):
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert not target.train().training


def test_what_is_fitted_goes_where_the_target_goes_and_is_no_part_of_its_state(target):
    inside = torch.nn.Sequential(target).double()
    assert not inside.state_dict()
    copied = copy.deepcopy(inside).to("meta")[0]
    if target.fitted is not None:
        weights = [*target.fitted.parameters(), *target.fitted.buffers()]
        assert {weight.dtype for weight in weights} == {torch.float64}
        assert all(w.is_meta for w in [*copied.fitted.parameters(), *copied.fitted.buffers()])
        assert not any(weight.is_meta or weight.requires_grad for weight in weights)


def test_pca_with_all_components_is_pixels_turned():
    pca = PatchPCA((2, 6), (4, 2), components=24)
    moments = Moments(24)
    moments.add(patchify(images(20), (4, 2)).flatten(0, 1))
    pca.take(moments)
    target = build_target("pca", encoder(), pca)
    other = images(4)[2:]
    turned = squared_error(target(images()), target(other))
    assert_close(turned, squared_error(patchify(images(), (4, 2)), patchify(other, (4, 2))))


def test_colours_are_of_the_images_before_their_normalisation():
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.5)
    red = torch.tensor([0.99, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 12)
    normalised = (red - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    for name, shape in (("mean_colour", (1, 12)), ("mosaic", (1, 12, 16))):
        target = build_target(name, encoder(), mean=mean, std=std)
        assert_close(target(normalised), torch.full(shape, 7 * 64))


@pytest.mark.parametrize("name", ["pca", "tokens"])
def test_a_target_that_was_not_fitted_for_this_encoder_is_refused(name):
    with pytest.raises(ValueError, match=f"target {name}: it needs the stage `tokenizer` run with"):
        build_target(name, encoder())
    other = KMeans((2, 3), (4, 4)) if name == "tokens" else PatchPCA((2, 3), (4, 4), components=2)
    with pytest.raises(ValueError, match=r"grid of \(2, 3\) with patches of \(4, 4\), the encoder \(2, 6\)"):
        build_target(name, encoder(), other)


def test_an_unknown_target_is_named():
    with pytest.raises(ValueError, match="target 'colour' is not one of"):
        build_target("colour", None)
