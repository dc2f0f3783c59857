"""Sets with label maps, from their folders through the shards to the reader."""

import json
import pickle
import re
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from mae.data.loading.annotations import LabelMap
from mae.data.shards.write_shards import TooManyRejected
from mae.data.sources.base import SourceError


@pytest.fixture
def maps(tmp_path, encoded, picture):
    """Makes a tree of 40x32 images with label maps of values 0..2 and 255; `bad` becomes train/1's map."""

    def make(bad=None, image_size=(40, 32)):
        root = tmp_path / "maps"
        for split in ("train", "val"):
            for folder in ("images", "labels"):
                (root / folder / split).mkdir(parents=True)
            for number in range(3):
                values = np.random.default_rng(number).integers(0, 3, (32, 40), dtype=np.uint8)
                values[:2] = 255
                size = image_size if number == 1 else (40, 32)
                (root / f"images/{split}/{number}.jpg").write_bytes(encoded(picture(number, *size)))
                (root / f"labels/{split}/{number}.png").write_bytes(encoded(Image.fromarray(values), "PNG"))
        if bad is not None:
            (root / "labels/train/1.png").write_bytes(bad)
        (root / "classes.txt").write_text("sky\nroad\ncar\n")
        return root

    return make


def rejected(index):
    found = json.loads((index.directory / "rejected.json").read_bytes())["rejected"]
    return {one["path"].rsplit("/", 1)[-1]: one["reason"] for one in found}


def rows_of(split):
    return {split.meta(row)["path"].rsplit("/", 1)[-1]: row for row in range(len(split))}


def test_label_maps_travel_as_their_bytes_and_are_read_as_places(maps, sharded, tmp_path):
    root = maps()
    index = sharded(root, "label_maps")
    assert (index.task, index.ignore, [one["name"] for one in index.categories]) == (
        "segment", [255], ["sky", "road", "car"],
    )  # fmt: skip
    split = index.split("train")
    read = pickle.loads(pickle.dumps(LabelMap(index.categories, index.ignore)))
    for name, row in rows_of(split).items():
        file = root / "labels/train" / name.replace("jpg", "png")
        assert split.member(row, "labels.png") == file.read_bytes()
        labels = read(split, row)
        assert labels.dtype == torch.uint8
        np.testing.assert_array_equal(labels.numpy(), np.asarray(Image.open(file)))
    with tarfile.open(split.directory / split.shards[0]) as tar:
        names = [name.split(".", 1)[1] for name in tar.getnames()]
    assert names == ["jpg", "labels.png", "json"] * 3


def test_values_become_places_whatever_they_are(maps, sharded):
    index = sharded(maps(), "label_maps")
    split = index.split("val")
    row = rows_of(split)["0.jpg"]
    values = LabelMap([{"id": 0}, {"id": 1}, {"id": 2}], [255])(split, row)
    places = LabelMap([{"id": 2}, {"id": 0}], [1, 255])(split, row)
    expected = torch.full_like(values, 255)
    expected[values == 2], expected[values == 0] = 0, 1
    torch.testing.assert_close(places, expected)
    without = LabelMap(index.categories, [255, 1])(split, row)
    torch.testing.assert_close(without, torch.where(values == 1, 255, values))
    with pytest.raises(ValueError, match="256 categories"):
        LabelMap([{"id": value} for value in range(256)], [])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Image.new("L", (40, 31)), "label map is 40x31 pixels, its image is 40x32: resize the map"),
        (lambda: Image.new("L", (32, 40)), "label map is 32x40 pixels, its image is 40x32"),
        (
            lambda: Image.new("L", (40, 32), 3),
            "holds the unknown value 3 in 1280 pix.* are 0, 1, 2, 255:",
        ),
        (lambda: Image.new("I;16", (40, 32), 9000), "holds the unknown value 9000"),
        (lambda: Image.new("RGB", (40, 32)), "label map is RGB-coded"),
        (lambda: b"", "label map has zero bytes"),
        (lambda: b"text", "label map is no PNG"),
    ],
)
def test_an_image_with_an_unsound_label_map_is_left_out_by_name(maps, sharded, encoded, make, reason):
    bad = make()
    root = maps(bad if isinstance(bad, bytes) else encoded(bad, "PNG"))
    with pytest.raises(TooManyRejected, match=r"images/train/1.jpg: label map"):
        sharded(root, "label_maps")
    index = sharded(root, "label_maps", max_rejected=1)
    assert sorted(rows_of(index.split("train"))) == ["0.jpg", "2.jpg"]
    assert re.search(reason, rejected(index)["1.jpg"])


def test_many_unknown_values_are_counted_not_listed(maps, sharded, encoded):
    values = np.arange(1280, dtype=np.int64).reshape(32, 40) % 200
    root = maps(encoded(Image.fromarray(values.astype(np.uint8)), "PNG"))
    index = sharded(root, "label_maps", max_rejected=1)
    assert "the unknown values 3, 4, 5 and 194 more" in rejected(index)["1.jpg"]


def test_a_link_to_a_map_that_leads_nowhere_is_named(maps, sharded):
    root = maps()
    (root / "labels/train/1.png").unlink()
    (root / "labels/train/1.png").symlink_to("nowhere")
    index = sharded(root, "label_maps", max_rejected=1)
    assert list(rejected(index)) == ["1.jpg"]


def test_two_workers_give_the_same_shards_of_label_maps(maps, sharded):
    root = maps()
    one = sharded(root, "label_maps", "one", max_count=1)
    two = sharded(root, "label_maps", "two", max_count=1, workers=2)
    assert one.digest == two.digest


def test_a_changed_label_map_changes_the_fingerprint_of_the_content(maps, sharded, encoded):
    root = maps()
    before = sharded(root, "label_maps", "one").about["fingerprint"]
    (root / "labels/train/1.png").write_bytes(encoded(Image.new("L", (40, 32), 1), "PNG"))
    assert sharded(root, "label_maps", "two").about["fingerprint"] != before


def test_an_image_that_its_exif_turns_away_from_its_label_map_is_left_out(maps, sharded, encoded, picture):
    root = maps()
    exif = picture(1).getexif()
    exif[0x0112] = 3
    (root / "images/train/1.jpg").write_bytes(encoded(picture(1), exif=exif))
    index = sharded(root, "label_maps", max_rejected=1)
    assert set(rows_of(index.split("train"))) == {"0.jpg", "2.jpg"}
    assert "EXIF orientation 3" in rejected(index)["1.jpg"]


def masks(root, encoded, picture, foreground, classes="background\nforeground\n"):
    """A tree of masks of 0 and `foreground`, as many tools export them."""
    for split in ("train", "val"):
        for number in range(2):
            values = np.zeros((32, 40), dtype=np.uint8)
            values[8:20, 8:20] = foreground
            for folder, data in (
                ("images", encoded(picture(number), "PNG")),
                ("labels", encoded(Image.fromarray(values), "PNG")),
            ):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
                (root / folder / split / f"{number}.png").write_bytes(data)
    (root / "classes.txt").write_text(classes)
    return root


def test_masks_of_0_and_255_are_refused_with_the_setting_that_makes_255_a_class(
    tmp_path, sharded, encoded, picture
):
    root = masks(tmp_path / "masks", encoded, picture, 255)
    message = (
        r"masks: the label maps of train hold one class alone, 'background' \(value 0\), and 288 pixels of "
        r"255, not labelled: .* in ingest_segment.values, such as \[0, 255\]"
    )
    with pytest.raises(SourceError, match=message):
        sharded(root, "label_maps")
    index = sharded(root, "label_maps", source={"values": [0, 255]})
    assert index.categories == [{"id": 0, "name": "background"}, {"id": 255, "name": "foreground"}]
    assert index.ignore == []
    labels = LabelMap(index.categories, index.ignore)(index.split("train"), 0)
    assert labels.unique(return_counts=True)[1].tolist() == [1136, 144]
    assert labels.max() == 1


def test_one_class_alone_is_refused_whatever_the_other_values_are(tmp_path, sharded, encoded, picture):
    with pytest.raises(SourceError, match=r"one class alone, 'background' \(value 0\): there is nothing"):
        sharded(masks(tmp_path / "empty", encoded, picture, 0), "label_maps")
    root = masks(tmp_path / "ignored", encoded, picture, 255)
    for number in range(2):
        (root / f"labels/train/{number}.png").write_bytes(encoded(Image.new("L", (40, 32), 255), "PNG"))
    with pytest.raises(SourceError, match=r"hold no class, and 2,560 pixels of 255"):
        sharded(root, "label_maps")


def test_classes_that_no_map_of_a_split_holds_are_said(tmp_path, sharded, encoded, picture):
    root = masks(tmp_path / "masks", encoded, picture, 1, "background\nroad\ncar\n")
    (root / "labels/val/0.png").write_bytes(encoded(Image.new("L", (40, 32)), "PNG"))
    (root / "labels/val/1.png").write_bytes(encoded(Image.new("L", (40, 32)), "PNG"))
    said = []
    sharded(root, "label_maps", log=said.append, reuse_dir=tmp_path / "kept")
    summary = json.loads((tmp_path / "out/summary.json").read_bytes())
    assert summary["class_counts"] == {
        "train": {"background": 2272, "road": 288, "car": 0},
        "val": {"background": 2560, "road": 0, "car": 0},
    }
    assert f"{root}: 1 classes are in no label map of train, none can be learnt: car" in said
    assert f"{root}: 2 classes are in no label map of val, the figures leave them out: road, car" in said
    (root / "images/train/1.png").unlink(), (root / "labels/train/1.png").unlink()
    again = []
    sharded(root, "label_maps", "again", log=again.append, reuse_dir=tmp_path / "kept")
    assert [line for line in again if "are in no" in line] == [line for line in said if "are in no" in line]
