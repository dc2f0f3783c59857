"""One geometry moves pixels, polygons and masks; boxes are those of the masks that are seen."""

import json
import pickle

import numpy as np
import pytest
import torch
from pycocotools import mask as reference

from mae.data.decode import decode
from mae.data.transforms.detection import detection_evaluation, large_scale_jitter


def objects(height, width, *annotations):
    full = [
        {"iscrowd": 0, "category": number, "bbox": [0, 0, width, height], **one}
        for number, one in enumerate(annotations)
    ]
    return {"image_id": 7, "width": width, "height": height, "annotations": full}


def box_polygon(left, top, right, bottom):
    return {"segmentation": [[left, top, right, top, right, bottom, left, bottom]]}


def run_lengths(mask, compressed):
    encoded = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F"), [2]]).astype(int)))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], runs])).tolist()}


def assert_consistent(image, target, size):
    assert image.shape == (3, size, size)
    assert image.dtype == torch.uint8
    count = len(target["labels"])
    assert target["boxes"].shape == (count, 4)
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].dtype == torch.int64
    assert target["masks"].shape == (count, size, size)
    assert target["masks"].dtype == torch.uint8
    for box, mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
        rows, columns = mask.nonzero(as_tuple=True)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def marked(height, width, *boxes):
    """A black image whose objects, of those boxes, are white."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for left, top, right, bottom in boxes:
        image[:, top:bottom, left:right] = 255
    return image


@pytest.mark.parametrize("kind", ["polygon", "runs", "compressed"])
def test_masks_lie_on_the_pixels_of_their_objects(kind):
    boxes = [(5, 8, 40, 30), (60, 50, 100, 90), (110, 3, 118, 79)]
    image = marked(96, 120, *boxes)
    annotations = []
    for left, top, right, bottom in boxes:
        mask = np.zeros((96, 120), dtype=bool)
        mask[top:bottom, left:right] = True
        polygon = box_polygon(left, top, right, bottom)
        runs = {"segmentation": run_lengths(mask, kind == "compressed")}
        annotations.append(polygon if kind == "polygon" else runs)
    for seed in range(20):
        torch.manual_seed(seed)
        made, target = large_scale_jitter(64, fill=(0, 0, 0))(image, objects(96, 120, *annotations))
        assert_consistent(made, target, 64)
        covered = target["masks"].sum(0)
        assert covered.max() <= 1
        wrong = (made[0] > 127) != covered.bool()
        around = sum(2 * (box[2] - box[0] + box[3] - box[1]).item() for box in target["boxes"])
        assert wrong.sum() <= 0.5 * around + 4  # half-covered pixels may fall on either side


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools's
def test_without_a_change_of_size_masks_are_cocos_own(shared_data):
    root = shared_data / "coco-mini"
    truth = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    for image in truth["images"][:25]:
        mine = [one for one in truth["annotations"] if one["image_id"] == image["id"]]
        target = {"image_id": image["id"], "annotations": [{**one, "category": 0} for one in mine]}
        pixels = decode((root / "val2017" / image["file_name"]).read_bytes())
        size, (height, width) = max(pixels.shape), pixels.shape[-2:]
        made, after = large_scale_jitter(size, scale=(1, 1), flip=False)(pixels, target)
        torch.testing.assert_close(made[:, :height, :width], pixels, rtol=0, atol=0)
        expected = []
        for one in mine:
            if not one["iscrowd"]:
                parts = reference.frPyObjects(one["segmentation"], height, width)
                expected.append(reference.decode(reference.merge(parts)))
        expected = [mask for mask in expected if mask.any()]
        assert len(after["masks"]) == len(expected)
        for mask, wanted in zip(after["masks"].numpy(), expected, strict=True):
            np.testing.assert_array_equal(mask[:height, :width], wanted)
            assert mask.sum() == wanted.sum()


@pytest.mark.parametrize("seed", range(4))
def test_real_images_come_out_consistent(shared_data, seed):
    root = shared_data / "coco-mini"
    truth = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    torch.manual_seed(seed)
    for image in truth["images"][seed * 5 : seed * 5 + 5]:
        mine = [{**one, "category": 3} for one in truth["annotations"] if one["image_id"] == image["id"]]
        pixels = decode((root / "val2017" / image["file_name"]).read_bytes())
        made, target = large_scale_jitter(160)(pixels, {"image_id": image["id"], "annotations": mine})
        assert_consistent(made, target, 160)
        assert target["image_id"] == image["id"]


def test_crowds_and_what_left_the_crop_are_no_objects():
    image = marked(100, 100)
    crowd = {**box_polygon(0, 0, 100, 100), "iscrowd": 1}
    counts = set()
    for seed in range(30):
        torch.manual_seed(seed)
        corners = [box_polygon(0, 0, 10, 10), box_polygon(90, 90, 100, 100)]
        made, target = large_scale_jitter(50, scale=(2, 2))(image, objects(100, 100, crowd, *corners))
        assert_consistent(made, target, 50)
        assert 0 not in target["labels"]
        counts.add(len(target["labels"]))
    assert counts == {0, 1}  # a quarter of the image never shows both corners


def test_a_mirrored_image_has_mirrored_objects():
    image, target = marked(40, 60, (4, 6, 20, 30)), objects(40, 60, box_polygon(4, 6, 20, 30))
    seen = set()
    for seed in range(10):
        torch.manual_seed(seed)
        made, after = large_scale_jitter(60, scale=(1, 1), fill=(0, 0, 0))(image, target)
        torch.testing.assert_close(after["masks"][0].bool(), made[0] > 127)
        seen.add(tuple(after["boxes"][0].tolist()))
    assert seen == {(4, 6, 20, 30), (40, 6, 56, 30)}


def test_the_image_lies_in_the_corner_of_one_colour():
    torch.manual_seed(0)
    made, _ = large_scale_jitter(32, scale=(0.5, 0.5), fill=(1, 2, 3))(marked(10, 20), objects(10, 20))
    assert made[:, :8, :16].max() == 0
    for part in (made[:, 8:], made[:, :, 16:]):
        assert part.amin((1, 2)).tolist() == part.amax((1, 2)).tolist() == [1, 2, 3]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6000), (6000, 1), (7, 3), (3000, 17)])
def test_any_size_of_image_goes(height, width):
    target = objects(height, width, box_polygon(0, 0, width, height))
    for seed in range(4):
        torch.manual_seed(seed)
        assert_consistent(*large_scale_jitter(48)(marked(height, width), target), 48)
    made, after = detection_evaluation(48)(marked(height, width), None)
    assert made.shape == (3, 48, 48)
    assert after["size"] == (height, width)
    assert max(after["inner"]) == 48


def test_of_very_many_objects_the_largest_are_kept():
    many = [box_polygon(0, 0, 1 + number % 40, 1 + number // 40) for number in range(1600)]
    _, target = large_scale_jitter(40, scale=(1, 1), max_objects=3)(marked(40, 40), objects(40, 40, *many))
    assert target["labels"].tolist() == [1559, 1598, 1599]


def test_images_without_objects_have_empty_targets():
    _, target = large_scale_jitter(16)(marked(9, 9), objects(9, 9))
    assert [target[name].shape for name in ("boxes", "labels", "masks")] == [(0, 4), (0,), (0, 16, 16)]


def test_polygons_of_very_many_corners_go():
    turns = np.linspace(0, 2 * np.pi, 200_000)
    circle = np.stack([20 + 15 * np.cos(turns), 20 + 15 * np.sin(turns)], axis=1).ravel().tolist()
    target = objects(40, 40, {"segmentation": [circle]})
    _, after = large_scale_jitter(40, scale=(1, 1), flip=False)(marked(40, 40), target)
    assert abs(after["masks"].sum() / (np.pi * 15**2) - 1) < 0.02


def test_evaluation_says_where_the_image_lies():
    made, after = detection_evaluation(64, fill=(9, 9, 9))(marked(30, 40), {"image_id": "a"})
    assert after == {"image_id": "a", "size": (30, 40), "inner": (48, 64)}
    assert made[:, :48].max() == 0
    assert made[:, 48:].min() == 9


def test_the_same_seed_gives_the_same_sample_also_from_a_copy_of_the_transform():
    image, target = marked(50, 70, (10, 10, 30, 30)), objects(50, 70, box_polygon(10, 10, 30, 30))
    transform = large_scale_jitter(40)
    made = []
    for one in (transform, pickle.loads(pickle.dumps(transform))):
        torch.manual_seed(5)
        made.append(one(image, target))
    torch.testing.assert_close(made[0], made[1], rtol=0, atol=0)
    assert pickle.loads(pickle.dumps(detection_evaluation(8))) == detection_evaluation(8)


@pytest.mark.parametrize(
    "wrong", [{"scale": (0, 1)}, {"scale": (2, 1)}, {"fill": (0, 0)}, {"max_objects": 0}]
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        large_scale_jitter(8, **wrong)
