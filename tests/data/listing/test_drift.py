"""Changes between two listings are counted by image, and a shift differs from chance."""

import os

import numpy as np
import pytest
from PIL import Image

from mae.data.listing.drift import class_shift, compare
from mae.data.listing.image_statistics import STATISTICS, distances, measure, statistics
from mae.data.listing.listing_file import Listing
from mae.data.listing.manifest import open_source, write_listing


def image(path, seed=0, *, flat=None, size=(24, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(drawn if flat is None else np.full_like(drawn, flat)).save(path)


@pytest.fixture
def source(tmp_path):
    """Twelve images of each of three classes."""
    for number in range(36):
        image(tmp_path / "raw/train" / "abc"[number % 3] / f"{number:02d}.png", number)
    return tmp_path / "raw"


def listed(source, name, kind="folder"):
    write_listing(open_source(kind, source), source.parent / name)
    return Listing(source.parent / name)


def paths(listing, rows):
    return [listing[int(row)].path for row in rows]


def test_nothing_changed_is_no_difference(source):
    found = compare(listed(source, "before"), listed(source, "after"))
    assert [len(rows) for rows in (found.new, found.changed, found.removed)] == [0, 0, 0]
    assert len(found.unchanged) == 36
    assert class_shift(*found.by_class, seed=0) == (0.0, 0.0)


def test_new_changed_removed_and_moved_images_are_distinguished(source):
    before = listed(source, "before")
    image(source / "train/a/new.png", 100)
    os.utime(source / "train/b/01.png", ns=(1, 1))
    (source / "train/c/02.png").unlink()
    (source / "train/a/00.png").rename(source / "train/b/00.png")
    after = listed(source, "after")
    found = compare(before, after)
    assert paths(after, found.new) == ["train/a/new.png", "train/b/00.png"]
    assert paths(after, found.changed) == ["train/b/01.png"]
    assert paths(before, found.removed) == ["train/a/00.png", "train/c/02.png"]
    assert sorted(found.new_or_changed) == sorted([*found.new, *found.changed])
    assert dict(zip(found.classes, found.by_class.T.tolist(), strict=True)) == {
        "a": [12, 1],
        "b": [12, 2],
        "c": [12, 0],
    }


def test_images_without_labels_have_no_classes(source):
    before = listed(source, "before", "flat")
    image(source / "new.png", 100)
    found = compare(before, listed(source, "after", "flat"))
    assert (found.classes, found.by_class.shape, len(found.new)) == ([], (2, 0), 1)
    assert class_shift(*found.by_class, seed=0) == (0.0, 0.0)


def test_one_class_alone_is_a_shift_that_chance_does_not_make(source):
    before = listed(source, "before")
    for number in range(40):
        image(source / f"train/a/n{number}.png", number)
    shift, chance = class_shift(*compare(before, listed(source, "after")).by_class, seed=0)
    assert shift == pytest.approx(2 / 3)
    assert chance < 0.3


def test_few_images_of_many_classes_look_shifted_by_chance():
    before = np.full(1000, 1300)
    drawn = np.random.default_rng(1).multinomial(100, before / before.sum())
    shift, chance = class_shift(before, drawn, seed=0)
    assert 0.85 < shift <= chance
    assert class_shift(before, np.eye(1000, dtype=int)[0] * 100, seed=0)[0] > chance


def test_the_statistics_are_those_of_the_pixels():
    found = dict(zip(STATISTICS, statistics(np.full((10, 40, 3), 51, np.uint8)), strict=True))
    assert found == pytest.approx(
        {"brightness": 0.2, "contrast": 0, "saturation": 0, "sharpness": 0, "side": 20, "aspect": 4}, abs=1e-6
    )
    red = np.zeros((2, 2, 3), np.uint8)
    red[:, 1, 0] = 255
    found = dict(zip(STATISTICS, statistics(red), strict=True))
    assert found["saturation"] == pytest.approx(0.5)
    assert found["sharpness"] == pytest.approx(0.299 / 2)
    assert statistics(np.zeros((1, 1, 3), np.uint8))[3] == 0


def test_blank_images_lie_as_far_apart_as_can_be_and_are_counted(source):
    before = listed(source, "before")
    for number in range(10):
        image(source / f"train/a/blank{number}.png", flat=200)
    (source / "train/a/broken.png").write_bytes(b"not an image")
    after = listed(source, "after")
    found = compare(before, after)
    old = measure(after, found.unchanged, most=20, seed=0)
    new = measure(after, found.new_or_changed, most=20, seed=0)
    assert (len(old.values), old.bad, old.blank) == (20, 0, 0.0)
    assert (len(new.values), new.bad, new.blank) == (10, 1, 1.0)
    assert new.undecodable == pytest.approx(1 / 11)
    assert old.thumbnails.shape == (8, 3, 64, 64)
    apart = distances(old, new)
    assert apart["contrast"][0] == 1.0
    assert apart["contrast"][1] < 1e-3
    assert apart["aspect"][0] == 0.0


def test_a_sample_of_nothing_has_no_distance(source):
    listing = listed(source, "before")
    nothing = measure(listing, np.array([], dtype=np.int64), most=5, seed=0)
    assert (nothing.undecodable, nothing.blank) == (0.0, 0.0)
    assert distances(nothing, measure(listing, np.arange(5), most=5, seed=0)) == {}
