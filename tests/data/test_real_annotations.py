"""The small real COCO, ADE20K and CamVid sets beside the checkout, into shards and back."""

import json

import numpy as np
import pytest
from PIL import Image

from mae.data.loading.annotations import LabelMap, Objects, ground_truth
from mae.data.run_lengths import run_lengths

_FIELDS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")


def by_id(annotations):
    return sorted(({name: one[name] for name in _FIELDS} for one in annotations), key=lambda one: one["id"])


def test_coco_s_annotations_come_back_unchanged_with_official_ids(shared_data, sharded):
    root = shared_data / "coco-mini"
    index = sharded(root, "coco", max_count=100)
    assert index.about["rejected"]["count"] == 0
    assert (index.categories[0]["id"], index.categories[-1]["id"], len(index.categories)) == (1, 90, 80)
    for name, images, objects, crowds in (("train", 165, 1396, 18), ("val", 111, 935, 9)):
        split = index.split(name)
        official = json.loads((root / f"annotations/instances_{name}2017.json").read_bytes())
        truth = ground_truth(split, index.categories)
        assert by_id(truth["annotations"]) == by_id(official["annotations"])
        assert (len(truth["images"]), len(truth["annotations"])) == (images, objects)
        assert sum(one["iscrowd"] for one in truth["annotations"]) == crowds
        assert {one["file_name"] for one in truth["images"]} == {
            one["file_name"] for one in official["images"]
        }
        target = Objects(index.categories)(split, 0)
        for one in target["annotations"]:
            assert index.categories[one["category"]]["id"] == one["category_id"]


# pycocotools asks numpy for arrays in its old way
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_run_lengths_of_real_masks_are_pycocotools(shared_data):
    api = pytest.importorskip("pycocotools.mask")
    about = json.loads((shared_data / "coco-mini/annotations/instances_val2017.json").read_bytes())
    sizes = {image["id"]: (image["height"], image["width"]) for image in about["images"]}
    for one in about["annotations"][::10] + [one for one in about["annotations"] if one["iscrowd"]]:
        height, width = sizes[one["image_id"]]
        coded = api.frPyObjects(one["segmentation"], height, width)
        coded = coded if one["iscrowd"] else api.merge(coded)
        runs = run_lengths({"size": [height, width], "counts": coded["counts"].decode()}, height, width)
        mask = np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height).T
        np.testing.assert_array_equal(mask, api.decode(coded))


@pytest.mark.parametrize(
    ("kind", "name", "train", "val", "categories", "labels", "shift"),
    [
        ("ade20k", "ade20k-mini", 23, 2, 150, "annotations/training", 1),
        ("camvid", "camvid-mini", 60, 20, 11, "CamVid/trainannot", 0),
    ],
)
def test_real_label_maps_are_read_as_category_indices(
    shared_data, sharded, kind, name, train, val, categories, labels, shift
):
    root = shared_data / name
    index = sharded(root, kind, max_count=100)
    assert index.about["rejected"]["count"] == 0
    assert len(index.categories) == categories
    assert len(index.split("val")) == val
    split = index.split("train")
    assert len(split) == train
    read = LabelMap(index.categories, index.ignore)
    for row in range(len(split)):
        stem = split.meta(row)["path"].rsplit("/", 1)[-1].rsplit(".", 1)[0]
        stored = np.asarray(Image.open(root / labels / f"{stem}.png")).astype(np.int64)
        expected = np.where(np.isin(stored, index.ignore), 255, stored - shift)
        np.testing.assert_array_equal(read(split, row).numpy(), expected)
