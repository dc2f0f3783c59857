import pickle
import random
from functools import partial

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode, v2

from mae.data.transforms.image import Normalize, byol_crop, evaluation, finetuning, pretraining

GREY = (0.5, 0.5, 0.5)

_HAS_AVX2 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
ALL = {
    "pretraining": pretraining((24, 32)),
    "fixed": pretraining((24, 32), crop="fixed"),
    "none": pretraining((24, 32), crop="centre", flip=False),
    "jitter": pretraining((24, 32), jitter=(0.4, 0.4, 0.4, 0.1)),
    "byol": byol_crop((24, 32)),
    "evaluation": evaluation((24, 32)),
    "finetuning without RandAugment": finetuning((24, 32), rand_augment=None, mean=GREY),
}


@pytest.fixture
def image(picture):
    return torch.from_numpy(np.array(picture(0, 90, 70))).permute(2, 0, 1)


@pytest.mark.parametrize("name", ALL)
def test_every_transform_gives_uint8_of_the_asked_size_and_can_be_sent_away(image, name):
    transform = pickle.loads(pickle.dumps(ALL[name]))
    for given in (image, image[:, :5, :3], image[:, :1, :]):
        out = transform(given)
        assert out.dtype == torch.uint8
        assert out.shape == (3, 24, 32)


def test_the_same_seed_gives_the_same_crop_and_the_given_image_is_left_alone(image):
    before = image.clone()
    for transform in ALL.values():
        torch.manual_seed(3)
        first = transform(image)
        torch.manual_seed(3)
        torch.testing.assert_close(transform(image), first)
    torch.testing.assert_close(image, before)


def test_pretraining_equals_torchvisions_own_transforms(image):
    own = pretraining(32, flip=False)
    theirs = v2.RandomResizedCrop(32, (0.2, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True)
    for given in (image, image.contiguous(), image[:, :5, :3], image[:, :1], image[:, :32, :32]):
        for seed in range(20):
            torch.manual_seed(seed)
            expected = theirs(given)
            torch.manual_seed(seed)
            # Equal; but without AVX2 theirs goes through floats, and rounds them.
            torch.testing.assert_close(own(given), expected, rtol=0, atol=0 if _HAS_AVX2 else 1)


def test_flipping_happens_half_the_time_and_can_be_switched_off(image):
    ramp = torch.arange(64, dtype=torch.uint8).expand(3, 64, 64)
    torch.manual_seed(0)
    mirrored = [bool(out[0, 0, 0] > out[0, 0, -1]) for out in (pretraining(32)(ramp) for _ in range(200))]
    assert 70 < sum(mirrored) < 130
    assert not any(bool(pretraining(32, flip=False)(ramp)[0, 0, 0] > 40) for _ in range(50))


@pytest.mark.parametrize(
    ("make", "expected"), [(byol_crop, 0.526), (partial(finetuning, rand_augment=None, mean=GREY), 0.434)]
)
def test_the_probes_crop_is_larger_on_average_than_torchvisions(make, expected):
    transform = (
        make(8, flip=False) if make is byol_crop else make(8, flip=False, rand_augment=None, mean=GREY)
    )
    image = torch.empty(3, 375, 500)
    torch.manual_seed(0)
    draws = [transform.sampler.make_params([image]) for _ in range(4000)]
    area = np.mean([one["height"] * one["width"] for one in draws]) / (375 * 500)
    assert abs(area - expected) < 0.02
    for one in draws:
        assert 0 <= one["top"] <= 375 - one["height"]
        assert 0 <= one["left"] <= 500 - one["width"]


@pytest.mark.parametrize(("size", "resized"), [(224, 256), (196, 224), (384, 384)])
def test_evaluation_resizes_and_crops_as_published(picture, size, resized):
    image = torch.from_numpy(np.array(picture(1, 500, 400))).permute(2, 0, 1)
    theirs = v2.Compose(
        [v2.Resize(resized, interpolation=InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(size)]
    )
    torch.testing.assert_close(evaluation(size)(image), theirs(image))
    upright = image.transpose(1, 2)
    torch.testing.assert_close(evaluation(size)(upright), theirs(upright))


def test_a_sliver_is_evaluated_without_a_giant_in_between(monkeypatch):
    seen = []
    real = torch.nn.functional.interpolate
    monkeypatch.setattr(
        torch.nn.functional,
        "interpolate",
        lambda *args, **kw: (seen.append(kw.get("size") or args[1]), real(*args, **kw))[1],
    )
    assert evaluation(32)(torch.zeros(3, 2, 9000, dtype=torch.uint8)).shape == (3, 32, 32)
    assert all(height * width < 40_000 for height, width in seen)


@pytest.mark.parametrize("config", ["rand-m9-mstd0.5-inc1", "rand-m10-n8-inc1"])
def test_rand_augment_changes_images_and_survives_every_strength(image, config):
    # The second asks again and again for posterising to 0 bits, which Pillow 13 refuses.
    transform = pickle.loads(pickle.dumps(finetuning(32, rand_augment=config, mean=GREY)))
    plain = finetuning(32, rand_augment=None, mean=GREY)
    changed = 0
    for seed in range(40):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        out = transform(image)
        torch.manual_seed(seed)
        assert out.shape == (3, 32, 32)
        changed += not torch.equal(out, plain(image))
    assert changed > 20
    assert "timm.data.auto_augment" in transform.needs


def test_normalising_on_the_device_equals_the_usual_two_steps_and_can_be_undone(image):
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    usual = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    )
    batch = torch.stack([image, image.flip(1)])
    torch.testing.assert_close(normalize(batch), usual(batch), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(normalize.undo(normalize(batch)), batch)
    assert normalize.state_dict() == {}


def test_statistics_of_0_to_255_are_refused_wherever_a_file_brings_them():
    with pytest.raises(ValueError, match=r"expected both in 0..1, .* divide numbers of 0 to 255 by 255"):
        Normalize((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def test_settings_that_cannot_be_are_refused():
    for wrong in (
        lambda: pretraining(0),
        lambda: pretraining(32, crop="corner"),
        lambda: pretraining(32, scale=(0.5, 0.2)),
        lambda: pretraining(32, scale=(0.0, 1.5)),
        lambda: evaluation(32, crop_pct=0.0),
    ):
        with pytest.raises(ValueError, match=r"size|crop|scale"):
            wrong()
