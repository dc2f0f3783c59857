import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_cdt

from mae.data.demo.ade20k_layout import NAMES, label_map, write_demo_ade20k
from mae.data.demo.scenes import dense_look, scenes
from mae.data.listing.manifest import open_source

SETTINGS = {"train": 20, "val": 10, "size": 56, "seed": 0}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    assert write_demo_ade20k(root, **SETTINGS)["classes"] == 11
    return root / "ADEChallengeData2016"


def test_the_ade20k_source_reads_what_was_written(written):
    source = open_source("ade20k", written)
    entries = list(source.entries())
    assert [sum(entry.split == split for entry in entries) for split in ("train", "val")] == [20, 10]
    assert source.annotation_info()["categories"][-1] == {"id": 11, "name": "photograph"}


def test_maps_show_what_the_scenes_do(written):
    for scene in scenes("val", 10, size=56, seed=0, look=dense_look(56)):
        name = f"ADE_val_{scene.index + 1:08d}"
        with Image.open(written / "annotations" / "validation" / f"{name}.png") as opened:
            assert opened.mode == "L"
            values = np.asarray(opened)
        np.testing.assert_array_equal(values, label_map(scene))
        for digit in scene.digits:
            assert set(values[digit.mask].tolist()) == {digit.label + 1}
        assert set(np.unique(values)) == {
            11,
            *({0} if scene.digits else ()),
            *(d.label + 1 for d in scene.digits),
        }
        seen = np.any([np.zeros((56, 56), bool), *(digit.mask for digit in scene.digits)], axis=0)
        away = distance_transform_cdt(~seen, "chessboard") if seen.any() else np.full((56, 56), 56)
        assert (values[away > 5] == 11).all()
        assert (values[away <= 1] < 11).all()
        with Image.open(written / "images" / "validation" / f"{name}.jpg") as opened:
            assert np.abs(np.asarray(opened).astype(float) - scene.image).mean() < 4


def test_digits_take_a_good_part_of_the_map_and_a_rim_belongs_to_nothing():
    maps = [label_map(scene) for scene in scenes("train", 20, size=56, seed=0, look=dense_look(56))]
    assert 0.2 < np.mean([((values > 0) & (values < 11)).mean() for values in maps]) < 0.6
    assert 0.02 < np.mean([(values == 0).mean() for values in maps]) < 0.2


def test_the_table_of_classes_has_the_official_form(written):
    lines = (written / "objectInfo150.txt").read_text().splitlines()
    assert lines[0].split("\t") == ["Idx", "Ratio", "Train", "Val", "Name"]
    rows = [line.split("\t") for line in lines[1:]]
    assert [row[0] for row in rows] == [str(value) for value in range(1, 12)]
    assert tuple(row[4] for row in rows) == NAMES
    assert rows[-1][2:4] == ["20", "10"]
