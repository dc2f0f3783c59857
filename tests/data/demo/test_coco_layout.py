import json
import warnings

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as reference

from mae.data.demo.coco_layout import run_lengths_of, segmentation_of, write_demo_coco
from mae.data.demo.imagenet_layout import write_demo
from mae.data.demo.scenes import Look, dense_look, scenes
from mae.data.listing.manifest import open_source

SETTINGS = {"train": 150, "val": 10, "size": 56, "seed": 0}


def decoded(segmentation, height, width):
    encoded = reference.frPyObjects(segmentation, height, width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools's own
        return reference.decode(encoded if isinstance(segmentation, dict) else reference.merge(encoded)) > 0


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    write_demo_coco(root, **SETTINGS)
    return root


@pytest.fixture(scope="module")
def instances(written):
    return json.loads((written / "coco" / "annotations" / "instances_train2017.json").read_text())


def by_image(instances):
    return [
        [one for one in instances["annotations"] if one["image_id"] == image["id"]]
        for image in instances["images"]
    ]


def test_the_coco_source_reads_what_was_written(written):
    entries = list(open_source("coco", written / "coco").entries())
    assert [sum(entry.split == split for entry in entries) for split in ("train", "val")] == [150, 10]
    assert all(entry.annotation for entry in entries)


def test_annotations_are_the_scenes_masks_to_the_pixel(instances):
    shown = scenes("train", 150, size=56, seed=0, look=dense_look(56))
    for scene, annotations in zip(shown, by_image(instances), strict=True):
        left = [(digit.label + 1, digit.mask) for digit in scene.digits]
        for one in annotations:
            mask = decoded(one["segmentation"], 56, 56)
            mine = [truth for label, truth in left if label == one["category_id"]]
            if one["iscrowd"]:
                np.testing.assert_array_equal(mask, np.any(mine, axis=0))
                left = [(label, truth) for label, truth in left if label != one["category_id"]]
            else:
                assert any(np.array_equal(mask, truth) for truth in mine)
            assert one["area"] == mask.sum()
            x, y, width, height = (int(side) for side in one["bbox"])
            assert mask[y : y + height, x : x + width].sum() == mask.sum()
            assert mask[y].any()
            assert mask[:, x].any()
        assert sum(not one["iscrowd"] for one in annotations) == len(left)


def test_there_are_crowds_empty_images_polygons_and_run_lengths(instances):
    kinds = {(one["iscrowd"], type(one["segmentation"])) for one in instances["annotations"]}
    assert kinds == {(0, list), (0, dict), (1, dict)}
    counts = [len(annotations) for annotations in by_image(instances)]
    assert counts.count(0) in range(1, 16)
    assert max(counts) > 8


def test_ids_are_unique_over_both_splits_and_files_are_named_by_them(written, instances):
    val = json.loads((written / "coco" / "annotations" / "instances_val2017.json").read_text())
    ids = [image["id"] for image in instances["images"] + val["images"]]
    assert len(set(ids)) == 160
    assert [one["id"] for one in instances["annotations"]] == list(
        range(1, len(instances["annotations"]) + 1)
    )
    assert [category["id"] for category in instances["categories"]] == list(range(1, 11))
    for image in val["images"]:
        with Image.open(written / "coco" / "val2017" / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"]) == (56, 56)
        assert image["file_name"] == f"{image['id']:012d}.jpg"


@pytest.mark.parametrize("seed", range(60))
def test_any_mask_is_its_outline_or_its_runs(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 11)) < rng.random()
    mask[rng.integers(9), rng.integers(11)] = True
    np.testing.assert_array_equal(decoded(segmentation_of(mask), 9, 11), mask)
    np.testing.assert_array_equal(decoded(run_lengths_of(mask), 9, 11), mask)


def test_an_outline_has_a_corner_where_it_turns_only():
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:4, 2:7] = True
    assert segmentation_of(mask) == [[2.0, 1.0, 7.0, 1.0, 7.0, 4.0, 2.0, 4.0]]
    mask[4, 1] = True  # touches at a corner: a part of its own
    assert len(segmentation_of(mask)) == 2
    mask[2, 4] = False  # a hole
    assert segmentation_of(mask) == run_lengths_of(mask)


def test_layouts_lie_beside_each_other_and_are_written_once(tmp_path):
    small = {"train": 10, "val": 10, "size": 28, "seed": 0}
    first = write_demo_coco(tmp_path, **small)
    write_demo(tmp_path, **small)
    files = {path: path.stat().st_ino for path in (tmp_path / "coco").rglob("*")}
    assert write_demo_coco(tmp_path, **small) == first
    assert {path: path.stat().st_ino for path in (tmp_path / "coco").rglob("*")} == files
    write_demo_coco(tmp_path, **small, look=Look())
    assert (tmp_path / "imagenet").is_dir()
    assert json.loads((tmp_path / ".coco.complete").read_text())["digest"] != first["digest"]


def test_two_directories_hold_the_same_bytes_and_times(tmp_path):
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_demo_coco(tmp_path / name, train=10, val=10, size=28, seed=0)
        files = sorted(path for path in (tmp_path / name / "coco").rglob("*") if path.is_file())
        found.append([(path.name, path.read_bytes(), path.stat().st_mtime_ns) for path in files])
    assert found[0] == found[1]
    assert len(found[0]) == 22


def test_somebody_elses_folder_is_left_alone(tmp_path):
    (tmp_path / "coco").mkdir()
    with pytest.raises(ValueError, match="coco is not the demo's"):
        write_demo_coco(tmp_path, **SETTINGS)
