"""Sets with objects, from a COCO tree through the shards to the readers."""

import json
import pickle
import re

import numpy as np
import pytest

from mae.data.loading.annotations import LabelMap, Objects, ground_truth
from mae.data.shards.split import ShardError
from mae.data.shards.write_shards import TooManyRejected
from mae.data.sources.base import SourceError

POLYGON = [4, 4, 20, 4, 20, 15.5]


def annotation(number, image, **changed):
    sound = {"bbox": [4, 4, 16, 11.5], "segmentation": [POLYGON], "area": 92.0, "iscrowd": 0}
    return {"id": number, "image_id": image, "category_id": 3, **sound, **changed}


@pytest.fixture
def coco(tmp_path, encoded, picture):
    """Makes a COCO tree of 40x32 images by number, in train and val, with these annotations in train."""

    def make(annotations, sizes=((40, 32), (40, 32)), **stated):
        root = tmp_path / "coco"
        (root / "annotations").mkdir(parents=True)
        for split in ("train", "val"):
            (root / f"{split}2017").mkdir()
            images = []
            for number, (width, height) in enumerate(sizes, 1):
                name = f"{number:012d}.jpg"
                (root / f"{split}2017" / name).write_bytes(encoded(picture(number, width, height)))
                image = {"id": number, "file_name": name, "width": width, "height": height}
                images.append({**image, **(stated if split == "train" and number == 1 else {})})
            about = {
                "images": images,
                "annotations": annotations if split == "train" else [annotation(1, 2)],
                "categories": [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}],
            }
            (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(about))
        return root

    return make


def rejected(index):
    found = json.loads((index.directory / "rejected.json").read_bytes())["rejected"]
    return {one["path"].rsplit("/", 1)[-1]: one["reason"] for one in found}


def rows_of(split):
    return {split.meta(row)["path"].rsplit("/", 1)[-1]: row for row in range(len(split))}


def test_objects_travel_with_their_image_and_categories_become_places(coco, sharded):
    crowd = {"segmentation": {"size": [32, 40], "counts": [0, 40, 1240]}, "bbox": [0, 0, 2, 32]}
    given = [annotation(7, 2), annotation(9, 2, category_id=1, iscrowd=1, **crowd, area=40)]
    index = sharded(coco(given), "coco")
    assert (index.task, index.ignore) == ("detect", [])
    assert index.categories == [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
    split = index.split("train")
    read, rows = pickle.loads(pickle.dumps(Objects(index.categories))), rows_of(split)
    assert len(pickle.dumps(read)) < 1000
    empty = read(split, rows["000000000001.jpg"])
    assert empty == {"image_id": 1, "width": 40, "height": 32, "annotations": []}
    target = read(split, rows["000000000002.jpg"])
    expected = [{**one, "category": place} for one, place in zip(given, (1, 0), strict=True)]
    for one in expected:
        del one["image_id"]
    assert target["annotations"] == expected
    assert set(split.labels) == {-1}


def test_categories_that_no_object_of_a_split_has_are_said(coco, sharded):
    said = []
    root = coco([annotation(7, 1)])
    sharded(root, "coco", log=said.append)
    for split, what in (("train", "none can be learnt"), ("val", "the figures leave them out")):
        assert f"{root}: 1 classes are in no annotation of {split}, {what}: person" in said


def test_the_ground_truth_of_a_split_is_its_official_json_again(coco, sharded):
    given = [annotation(7, 2), annotation(5, 1)]
    index = sharded(coco(given), "coco")
    truth = ground_truth(index.split("train"), index.categories)
    assert sorted(truth["annotations"], key=lambda one: -one["id"]) == given
    assert sorted(image["id"] for image in truth["images"]) == [1, 2]
    assert truth["images"][0].keys() == {"id", "file_name", "width", "height"}
    assert truth["categories"] == index.categories


@pytest.mark.parametrize("ids", [(0, 1), (5, 5), ("a", "b")])
def test_annotation_ids_that_evaluation_would_confuse_are_numbered_again(coco, sharded, ids):
    index = sharded(coco([annotation(ids[0], 1), annotation(ids[1], 2)]), "coco")
    truth = ground_truth(index.split("train"), index.categories)
    assert [one["id"] for one in truth["annotations"]] == [1, 2]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"bbox": [4, 4, 0, 5]}, r"annotation 7: box \[4, 4, 0, 5\] has no area"),
        ({"bbox": [4, 4, 5, -1]}, "no area"),
        ({"bbox": [30, 4, 12, 5]}, "outside its 40x32 image"),
        ({"bbox": [-2, 4, 12, 5]}, "outside its 40x32 image$"),
        ({"bbox": [20, 4, 36, 16]}, "outside its 40x32 image; read as two corners it would fit"),
        ({"bbox": [4, 33.5, 5, 5]}, "outside its 40x32 image"),
        ({"bbox": [40, 4, 1, 5]}, "no area within its 40x32 image"),
        ({"bbox": [float("nan"), 4, 5, 5]}, "not finite"),
        ({"bbox": [4, 4, float("inf"), 5]}, "not finite"),
        ({"bbox": [4, 4, 10**400, 5]}, "not finite"),
        ({"segmentation": [[4, 4, 20, 4]]}, "polygon of 4 numbers: expected x, y of 3 points"),
        ({"segmentation": [[4], [4, 4]]}, "polygon of 1 numbers"),
        ({"segmentation": [[4, 4, 20, 4, 20, 15, 7]]}, "polygon of 7 numbers"),
        ({"segmentation": [[4, 4, 20, 4, 20, None]]}, "no finite number"),
        ({"segmentation": [[4, 4, 20, 4, 20, float("nan")]]}, "no finite number"),
        ({"segmentation": [[4, 4, 20, 4, 20, 10**400]]}, "no finite number"),
        ({"segmentation": [[4, 4, 20, 4, 20, True]]}, "no finite number"),
        (
            {"segmentation": [[1, 1, 3e8, 1, 3e8, 3e8]]},
            r"point at \(3e\+08, 3e\+08\), outside its 40x32 image",
        ),
        ({"segmentation": [[60, 40, 90, 40, 90, 50]]}, "40x32 image: correct it, or cut the polygon"),
        ({"segmentation": [[-1.5, 4, 20, 4, 20, 15]]}, r"a point at \(-1.5, 4\), outside"),
        ({"segmentation": [[5, 5, 5, 5, 5, 5]]}, "polygons without area: all their points lie on one line"),
        ({"segmentation": [[4, 4, 8, 6, 6, 5], [9, 9, 9, 9, 9, 9]]}, "polygons without area"),
        (
            {"segmentation": [[0.1, 0.1, 0.6, 0.1, 0.6, 0.6]]},
            "mask from x 0.1 to 0.6 and y 0.1 to 0.6",
        ),
        (
            {"segmentation": [[24, 20, 36, 20, 36, 28]]},
            r"its box \[4, 4, 16, 11.5\].* elsewhere",
        ),
        ({"segmentation": {"size": [32, 40], "counts": [1000, 20, 260]}}, "from x 31 to 32 and y 8 to 28"),
        ({"segmentation": [], "iscrowd": 1}, "crowd without a segmentation"),
        ({"segmentation": POLYGON}, "neither a list of polygons nor run lengths"),
        ({"segmentation": "abc"}, "neither a list of polygons nor run lengths"),
        ({"segmentation": {"size": [40, 32], "counts": [1280]}}, r"run lengths of size \[40, 32\]"),
        ({"segmentation": {"size": [32, 40], "counts": [1280]}}, "mask without a pixel"),
        ({"segmentation": {"size": [32, 40], "counts": "abc"}}, "run lengths"),
    ],
)
def test_an_unsound_annotation_is_left_out_by_name_and_its_image_stays(coco, sharded, changed, reason):
    root = coco([annotation(7, 1, **changed), annotation(8, 1)])
    with pytest.raises(TooManyRejected, match=r"1 images or annotations.*max_rejected.*annotation 7"):
        sharded(root, "coco")
    index = sharded(root, "coco", max_rejected=1)
    split = index.split("train")
    assert len(split) == 2
    [kept] = Objects(index.categories)(split, rows_of(split)["000000000001.jpg"])["annotations"]
    assert kept["id"] == 8
    [said] = rejected(index).values()
    assert said.startswith("annotation 7: ")
    assert re.search(reason, said)
    assert index.about["rejected"]["count"] == 1


@pytest.mark.parametrize(
    ("stray", "fault"),
    [
        ([4, 4], "polygon of 2 numbers: expected x, y of 3 points or more"),
        ([], "polygon of 0 numbers"),
        ([4, 4, 20, 4, 20, 15, 7], "polygon of 7 numbers"),
        ([4, 4, 20, 4, 20, float("nan")], "polygon with a value that is no finite number"),
    ],
)
def test_a_stray_part_of_a_polygon_loses_only_itself_and_is_said(coco, sharded, stray, fault):
    said = []
    index = sharded(coco([annotation(7, 1, segmentation=[stray, POLYGON])]), "coco", log=said.append)
    split = index.split("train")
    [kept] = Objects(index.categories)(split, rows_of(split)["000000000001.jpg"])["annotations"]
    assert kept["segmentation"] == [POLYGON]
    assert index.about["rejected"]["count"] == 0
    [complaint] = json.loads((index.directory / "rejected.json").read_bytes())["complaints"]
    assert complaint["path"] == "train2017/000000000001.jpg"
    assert complaint["complaint"].startswith(f"annotation 7 without part 1 of 2: {fault}")
    assert any(
        "remarks about images that stay (1)" in line and "annotation 7 without part 1" in line
        for line in said
    )


def test_a_box_that_reaches_out_by_a_pixel_is_cut_and_one_within_is_not_touched(coco, sharded):
    boxes = [[-0.5, 4, 10, 10], [30, 22, 10.7, 10.9], [0, 0, 40, 32], [0.1, 0.2, 39.9, 31.8]]
    drawn = [[[x, y, x + w, y, x + w, y + h]] for x, y, w, h in boxes]
    given = [annotation(n, 1, bbox=boxes[n], segmentation=drawn[n], id=n + 1) for n in range(len(boxes))]
    index = sharded(coco(given), "coco")
    truth = ground_truth(index.split("train"), index.categories)
    cut = [[0, 4, 9.5, 10], [30, 22, 10, 10], *boxes[2:]]
    np.testing.assert_allclose([one["bbox"] for one in truth["annotations"]], cut, rtol=0, atol=1e-12)
    assert truth["annotations"][3]["bbox"] == boxes[3]


def test_a_mask_that_is_a_sliver_or_ties_a_bow_or_reaches_out_by_a_pixel_is_sound(coco, sharded):
    given = [
        annotation(1, 1, segmentation=[[4, 4, 20, 4, 20, 4.1, 4, 4.1]], bbox=[4, 4, 16, 1]),
        annotation(2, 1, segmentation=[[4, 4, 20, 16, 20, 4, 4, 16]], bbox=[4, 4, 16, 12]),
        annotation(3, 1, segmentation=[[5, 5, 5, 5, 5, 5], [-1, 4, 41, 4, 41, 16]], bbox=[0, 4, 40, 12]),
        annotation(4, 1, segmentation={"size": [32, 40], "counts": [131, 21, 1128]}, bbox=[4, 0, 1, 32]),
    ]
    index = sharded(coco(given), "coco")
    truth = ground_truth(index.split("train"), index.categories)
    assert [one["segmentation"] for one in truth["annotations"]] == [one["segmentation"] for one in given]


def test_a_box_alone_is_taken_for_a_mask_and_counted(coco, sharded):
    stated = {1: [], 2: None, 3: [[]]}
    without = [annotation(number, 1, segmentation=stated[number], area=None) for number in stated]
    root, said = coco([*without, annotation(4, 2)]), []
    index = sharded(root, "coco", log=said.append)
    truth = ground_truth(index.split("train"), index.categories)
    drawn = {one["id"]: (one["segmentation"], one["area"]) for one in truth["annotations"]}
    filled = ([[4, 4, 20, 4, 20, 15.5, 4, 15.5]], 16 * 11.5)
    assert drawn == {1: filled, 2: filled, 3: filled, 4: ([POLYGON], 92.0)}
    assert index.about["boxes_only"] == 3
    assert [line for line in said if "3 objects have a box and no mask" in line]


def test_an_area_that_is_not_stated_is_that_of_the_mask(coco, sharded):
    runs = {"segmentation": {"size": [32, 40], "counts": [10, 30, 1240]}, "bbox": [0, 0, 2, 32]}
    given = [annotation(1, 1, area=None), annotation(2, 1, area=0, **runs)]
    given.append(annotation(3, 1, area=10**400))
    index = sharded(coco(given), "coco")
    truth = ground_truth(index.split("train"), index.categories)
    assert [one["area"] for one in truth["annotations"]] == [92.0, 30.0, 92.0]


def test_an_image_of_another_size_than_its_annotations_is_left_out_whole(coco, sharded):
    root = coco([annotation(7, 1), annotation(8, 2)], width=32, height=40)
    index = sharded(root, "coco", max_rejected=1)
    assert len(index.split("train")) == 1
    [said] = rejected(index).values()
    assert said == "image is 40x32 pixels, its annotations are for 32x40"


@pytest.mark.parametrize(("format", "orientation"), [("JPEG", 3), ("JPEG", 6), ("PNG", 3)])
def test_an_image_that_its_exif_turns_away_from_its_annotations_is_left_out(
    coco, sharded, encoded, picture, format, orientation
):
    size = {"width": 32, "height": 40} if orientation == 6 else {}
    root = coco([annotation(7, 1), annotation(8, 2)], **size)
    exif = picture(1).getexif()
    exif[0x0112] = orientation
    (root / "train2017/000000000001.jpg").write_bytes(encoded(picture(1, 40, 32), format, exif=exif))
    index = sharded(root, "coco", max_rejected=1)
    assert len(index.split("train")) == 1
    [said] = rejected(index).values()
    assert said.startswith(f"image is turned by its EXIF orientation {orientation}")
    assert "save it upright" in said


def test_crowd_only_and_narrow_and_large_images_are_sound(coco, sharded):
    crowd = {"size": [300, 1], "counts": [100, 150, 50]}
    given = [
        annotation(1, 1, iscrowd=1, segmentation=crowd, bbox=[0, 100, 1, 150], area=150),
        annotation(2, 2, segmentation=[list(np.random.default_rng(0).uniform(4, 20, 20_000))]),
    ]
    index = sharded(coco(given, sizes=((1, 300), (6000, 40))), "coco")
    assert index.about["rejected"]["count"] == 0
    assert len(ground_truth(index.split("train"), index.categories)["annotations"]) == 2


def test_two_workers_give_the_same_annotated_shards(coco, sharded):
    root = coco([annotation(7, 1)])
    one = sharded(root, "coco", "one", max_count=1)
    two = sharded(root, "coco", "two", max_count=1, workers=2)
    assert one.digest == two.digest


def test_images_with_annotations_are_not_reduced(coco, sharded):
    with pytest.raises(ValueError, match=r"max_side is 20.*set max_side to null"):
        sharded(coco([]), "coco", max_side=20)


def test_readers_name_shards_that_hold_nothing_for_them(small_index):
    split = small_index.split("train")
    for row in range(len(split)):
        with pytest.raises(ShardError, match=r"train-\d+\.tar: sample \d+ has no annotations"):
            Objects([])(split, row)
        with pytest.raises(ShardError, match=r"train-\d+\.tar: sample \d+ has no labels.png"):
            LabelMap([], [])(split, row)
    assert (small_index.task, small_index.categories, small_index.ignore) == ("classify", [], [])


@pytest.mark.parametrize("given", [[], [annotation(7, 1, segmentation="[[4, 4, 20, 4, 20, 15.5]]")]])
def test_a_train_whose_every_object_is_missing_or_refused_is_an_error(coco, sharded, given):
    with pytest.raises(SourceError, match=r"no image of train has an annotated object.*max_rejected"):
        sharded(coco(given), "coco", max_rejected=9)
