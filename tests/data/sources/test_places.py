import pytest

from mae.data.listing.manifest import open_source, write_listing
from mae.data.sources.base import SourceError

# As the official lists: not in the order of names, and numbers that names in order would not give.
TRAIN = [("f/field/wild", "00000002", 149), ("a/airfield", "00000001", 0), ("a/airfield", "00000003", 0)]
VAL = [("Places365_val_00000002", 0), ("Places365_val_00000001", 149)]
TABLE = "/a/airfield 0\n/a/airplane_cabin 1\n/f/field/wild 149\n"


def touch(path, data=b"image"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def places365(tmp_path):
    root = tmp_path / "places365"
    for folder, name, _ in TRAIN:
        touch(root / f"data_256_standard/{folder}/{name}.jpg")
    for name, _ in VAL:
        touch(root / f"val_256/{name}.jpg")
    touch(root / "val_large/Places365_val_00000001.jpg")
    lines = "".join(f"/{folder}/{name}.jpg {number}\n" for folder, name, number in TRAIN)
    (root / "places365_train_standard.txt").write_text(lines)
    (root / "places365_val.txt").write_text("".join(f"{name}.jpg {number}\n" for name, number in VAL))
    (root / "categories_places365.txt").write_text(TABLE)
    return root


@pytest.fixture
def places205(tmp_path):
    root = tmp_path / "places205"
    for folder, name in (("a/abbey", "gsun_1"), ("f/field/wild", "gsun_2"), ("a/abbey", "gsun_3")):
        touch(root / f"data/vision/torralba/deeplearning/images256/{folder}/{name}.jpg")
    lists = root / "trainvalsplit_places205"
    lists.mkdir()
    (lists / "train_places205.csv").write_text("f/field/wild/gsun_2.jpg 71\na/abbey/gsun_1.jpg 0\n")
    (lists / "val_places205.csv").write_text("a/abbey/gsun_3.jpg 0\n")
    return root


def listed(kind, root):
    return [(entry.split, entry.path, entry.class_name) for entry in open_source(kind, root).entries()]


def test_places365_is_listed_as_its_lists_say(places365, tmp_path):
    assert listed("places365", places365) == [
        ("train", "data_256_standard/a/airfield/00000001.jpg", "000 airfield"),
        ("train", "data_256_standard/a/airfield/00000003.jpg", "000 airfield"),
        ("train", "data_256_standard/f/field/wild/00000002.jpg", "149 field/wild"),
        ("val", "val_256/Places365_val_00000001.jpg", "149 field/wild"),
        ("val", "val_256/Places365_val_00000002.jpg", "000 airfield"),
    ]
    manifest = write_listing(open_source("places365", places365), tmp_path / "out")
    assert manifest["classes"] == ["000 airfield", "149 field/wild"]
    assert manifest["class_info"]["149 field/wild"] == {"id": 149, "name": "field/wild"}


def test_places205_needs_no_table_of_categories_and_keeps_to_one_that_is_there(places205):
    images = "data/vision/torralba/deeplearning/images256"
    expected = [
        ("train", f"{images}/a/abbey/gsun_1.jpg", "000 abbey"),
        ("train", f"{images}/f/field/wild/gsun_2.jpg", "071 field/wild"),
        ("val", f"{images}/a/abbey/gsun_3.jpg", "000 abbey"),
    ]
    assert listed("places205", places205) == expected
    table = places205 / "categoryIndex_places205.csv"
    table.write_text("/a/abbey 0\n/f/field/wild 71\n")
    assert listed("places205", places205) == expected
    table.write_text("/a/abbey 0\n/f/field/wild 72\n")
    with pytest.raises(SourceError, match=r"of an unknown class: f/field/wild/gsun_2.jpg 71"):
        listed("places205", places205)


def test_other_places_for_images_and_lists_are_found(places365, places205):
    (places365 / "data_256_standard").rename(places365 / "data_256")
    lists = places365 / "filelist_places365-standard"
    lists.mkdir()
    for name in ("places365_train_standard.txt", "places365_val.txt", "categories_places365.txt"):
        (places365 / name).rename(lists / name)
    assert [path.split("/")[0] for _, path, _ in listed("places365", places365)] == ["data_256"] * 3 + [
        "val_256"
    ] * 2
    (places205 / "data/vision/torralba/deeplearning/images256").rename(places205 / "images256")
    assert {path.split("/")[0] for _, path, _ in listed("places205", places205)} == {"images256"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "places365_train_standard.txt",
            "/a/airfield/00000009.jpg 0",
            "whose file is missing: .*00000009.jpg 0",
        ),
        ("places365_train_standard.txt", "/a/../../../../x.jpg 0", "folder of another class|not there"),
        ("places365_train_standard.txt", "/a/airfield/00000001.jpg 149", "in a folder of another class"),
        ("places365_train_standard.txt", "/a/airfield/00000001.jpg 400", "of an unknown class"),
        ("places365_train_standard.txt", "/a/airfield/00000001.jpg", "lines that are no path and number"),
        (
            "places365_train_standard.txt",
            "/a/airfield/00000001.jpg 0\n" * 2,
            "images listed twice: a/airfield/00000001",
        ),
        ("places365_val.txt", "Places365_val_00000009.jpg 0", "whose file is missing"),
        ("categories_places365.txt", "/a/airfield\n", "lines that are no category and number"),
        ("categories_places365.txt", "/a/airfield 0\n/b/bar 0\n", "numbers given twice: 0"),
    ],
)
def test_a_list_that_does_not_fit_is_said_with_the_line(places365, tmp_path, name, text, message):
    (places365 / name).write_text(text)
    with pytest.raises(SourceError, match=message) as error:
        write_listing(open_source("places365", places365), tmp_path / "out")
    assert str(places365 / name) in str(error.value)
    assert not list((tmp_path / "out").iterdir())


def test_missing_lists_and_images_are_named(places365, tmp_path):
    (places365 / "places365_val.txt").unlink()
    with pytest.raises(SourceError, match=r"places365_val.txt: missing; expected the official list"):
        listed("places365", places365)
    (places365 / "places365_val.txt").write_text("")
    (places365 / "val_256").rename(places365 / "elsewhere")
    with pytest.raises(SourceError, match="images are missing; expected data_256_standard/ and val_256/ or"):
        listed("places365", places365)
    with pytest.raises(
        SourceError, match=r"nowhere: does not exist; expected the official train_places205.csv"
    ):
        listed("places205", tmp_path / "nowhere")
    with pytest.raises(SourceError, match="official val split"):
        open_source("places365", places365, val_fraction=0.1)
