"""Pixels and labels get the same cut; crops are mixed; sizes and padding are the recipe's."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from mae.data.decode import decode
from mae.data.transforms.segmentation import distort, segmentation_evaluation, segmentation_training


def striped(height, width, stripes=4):
    """An image whose columns are as bright as their label: stripes of 0, 1, 2 ..."""
    labels = (torch.arange(width) * stripes // width).to(torch.uint8).expand(height, width)
    return (labels * (255 // stripes)).expand(3, height, width).contiguous(), labels.contiguous()


def test_labels_lie_on_the_pixels_they_name():
    image, labels = striped(60, 80)
    transform = segmentation_training(48, jitter=False, fill=(255, 255, 255))
    for seed in range(20):
        torch.manual_seed(seed)
        made, target = transform(image, labels)
        assert made.shape == (3, 48, 48)
        assert made.dtype == target["labels"].dtype == torch.uint8
        inside = target["labels"] != 255
        stripes = (made[0].float() / (255 // 4)).round()
        assert (stripes[inside] != target["labels"][inside]).float().mean() < 0.03  # columns between stripes
        assert (made[:, ~inside] == 255).all()


def test_what_the_image_does_not_reach_is_ignored_and_of_one_colour():
    image, labels = striped(20, 40)
    made, target = segmentation_training((32, 64), short=20, ratio=(1, 1), jitter=False, fill=(1, 2, 3))(
        image, labels
    )
    assert (target["labels"][:20, :40] != 255).all()
    assert (target["labels"][20:] == 255).all()
    assert (target["labels"][:, 40:] == 255).all()
    assert made[:, 31, 63].tolist() == [1, 2, 3]


def test_a_crop_is_drawn_again_while_one_class_fills_too_much():
    image, labels = striped(40, 160, stripes=2)

    def largest(share):
        found = []
        for seed in range(60):
            torch.manual_seed(seed)
            transform = segmentation_training(
                (40, 48), short=40, ratio=(1, 1), max_class_share=share, flip=False, jitter=False
            )
            counts = torch.bincount(transform(image, labels)[1]["labels"].ravel().long(), minlength=2)
            found.append((counts.max() / counts.sum()).item())
        return np.array(found)

    assert (largest(1.0) >= 0.75).mean() > 0.5
    assert (largest(0.75) >= 0.75).mean() < 0.2


def test_unlabelled_pixels_do_not_count_as_a_class():
    labels = torch.full((40, 40), 255, dtype=torch.uint8)
    labels[0, :2] = torch.tensor([0, 1])
    transform = segmentation_training(40, ratio=(1, 1), flip=False, jitter=False)
    state = torch.random.get_rng_state()
    transform(torch.zeros(3, 40, 40, dtype=torch.uint8), labels)
    drawn_once = torch.random.get_rng_state()
    torch.random.set_rng_state(state)
    transform(torch.zeros(3, 40, 40, dtype=torch.uint8), torch.full_like(labels, 255))
    assert not torch.equal(drawn_once, torch.random.get_rng_state())  # all unlabelled: ten more draws


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6000), (6000, 1), (7, 3), (700, 2999)])
def test_any_size_of_image_goes(height, width):
    image, labels = striped(height, width)
    for seed in range(3):
        torch.manual_seed(seed)
        made, target = segmentation_training((32, 40))(image, labels)
        assert made.shape == (3, 32, 40)
        assert target["labels"].shape == (32, 40)
        assert (target["labels"] != 255).any()
    resized, about = segmentation_evaluation(32)(image, labels)
    assert about["size"] == (height, width)
    assert about["labels"] is labels
    assert min(resized.shape[-2:]) <= 32
    assert max(resized.shape[-2:]) <= 128


def test_evaluation_keeps_the_aspect():
    image, labels = striped(60, 80)
    assert segmentation_evaluation(30)(image, labels)[0].shape == (3, 30, 40)
    resized, about = segmentation_evaluation(120)(image.transpose(1, 2), None)
    assert resized.shape == (3, 160, 120)
    assert about == {"labels": None, "size": (80, 60)}


def test_distortion_keeps_grey_grey_and_stays_in_range():
    grey = torch.arange(256, dtype=torch.uint8).expand(3, 4, 256).contiguous()
    changed = set()
    for seed in range(64):
        torch.manual_seed(seed)
        made = distort(grey)
        assert made.dtype == torch.uint8
        assert made.shape == grey.shape
        assert torch.equal(made[0], made[1])
        assert torch.equal(made[0], made[2])
        assert (made[0, 0].int().diff() >= 0).all()
        changed.add(tuple(made[0, 0].tolist()))
    assert len(changed) > 30


def test_distortion_changes_hue_and_saturation_within_their_bounds():
    hues, saturations = [], []
    for seed in range(200):
        torch.manual_seed(seed)
        made = distort(torch.tensor([200, 120, 120], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 2))
        pixel = Image.fromarray(made.permute(1, 2, 0).contiguous().numpy()).convert("HSV").getpixel((0, 0))
        hues.append((pixel[0] + 128) % 256 - 128)
        saturations.append(pixel[1] / 102)
    assert 20 < max(hues) <= 28  # 36 degrees are 25.6 of 256, and rounding
    assert -28 <= min(hues) < -20
    assert np.mean(np.abs(hues) <= 2) > 0.4
    assert np.percentile(saturations, [5, 95]) == pytest.approx([0.62, 1.45], abs=0.2)


def test_a_real_map_stays_a_map_of_the_same_classes(shared_data):
    root = shared_data / "camvid-mini" / "CamVid"
    path = sorted((root / "train").glob("*.png"))[0]
    image = decode(path.read_bytes())
    with Image.open(root / "trainannot" / path.name) as opened:
        labels = torch.from_numpy(np.array(opened))
    torch.manual_seed(0)
    for _ in range(5):
        _, target = segmentation_training(128)(image, labels)
        assert set(target["labels"].unique().tolist()) <= {*labels.unique().tolist(), 255}


def test_a_map_of_another_size_is_refused():
    image, labels = striped(20, 30)
    with pytest.raises(ValueError, match="label map"):
        segmentation_training(16)(image, labels.T)


def test_the_same_seed_gives_the_same_sample_also_from_a_copy_of_the_transform():
    image, labels = striped(50, 70)
    transform = segmentation_training(40)
    made = []
    for one in (transform, pickle.loads(pickle.dumps(transform))):
        torch.manual_seed(5)
        made.append(one(image, labels))
    torch.testing.assert_close(made[0], made[1], rtol=0, atol=0)


@pytest.mark.parametrize("wrong", [{"crop": 0}, {"short": 0}, {"ratio": (0, 1)}, {"max_class_share": 1.5}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        segmentation_training(**{"crop": 8, **wrong})
    with pytest.raises(ValueError, match="short"):
        segmentation_evaluation(0)
