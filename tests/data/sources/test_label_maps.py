import json

import pytest

from mae.data.listing.manifest import open_source, write_listing
from mae.data.sources.base import SourceError


def touch(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def listed(kind, root, **options):
    return [
        (entry.split, entry.path, json.loads(entry.annotation)["map"])
        for entry in open_source(kind, root, **options).entries()
    ]


def info150(names):
    lines = [f"{number}\t0.1\t10\t2\t{name}" for number, name in enumerate(names, 1)]
    return "\n".join(["Idx\tRatio\tTrain\tVal\tName", *lines]).encode() + b"\n"


@pytest.fixture
def own(tmp_path):
    """People's own data: three training images and one for validation, two classes."""
    root = tmp_path / "own"
    for name in ("train/a", "train/deep/b", "train/c", "val/d"):
        touch(root / f"images/{name}.jpg")
        touch(root / f"labels/{name}.png", b"map")
    touch(root / "classes.txt", b"background\nroad\n\n")
    return root


def test_a_map_belongs_to_the_image_of_its_stem(own, tmp_path):
    assert listed("label_maps", own) == [
        ("train", "images/train/a.jpg", "labels/train/a.png"),
        ("train", "images/train/c.jpg", "labels/train/c.png"),
        ("train", "images/train/deep/b.jpg", "labels/train/deep/b.png"),
        ("val", "images/val/d.jpg", "labels/val/d.png"),
    ]
    manifest = write_listing(open_source("label_maps", own), tmp_path / "out")
    assert manifest["task"] == "segment"
    assert manifest["categories"] == [{"id": 0, "name": "background"}, {"id": 1, "name": "road"}]
    assert manifest["ignore"] == [255]


def test_a_changed_map_changes_the_fingerprint(own, tmp_path):
    before = write_listing(open_source("label_maps", own), tmp_path / "out")["fingerprint"]
    touch(own / "labels/train/a.png", b"another")
    assert write_listing(open_source("label_maps", own), tmp_path / "out")["fingerprint"] != before


@pytest.mark.parametrize("folders", [("images/train", "labels/train"), ("images", "labels")])
def test_without_val_a_fraction_is_held_out_by_name(tmp_path, folders):
    for number in range(60):
        touch(tmp_path / folders[0] / f"{number}.png")
        touch(tmp_path / folders[1] / f"{number}.png")
    touch(tmp_path / "classes.txt", b"a\nb\n")
    splits = [split for split, _, _ in listed("label_maps", tmp_path, val_fraction=0.3)]
    assert 5 <= splits.count("val") <= 35


def test_splits_may_have_their_other_usual_names_and_storage_folders_are_not_walked(own):
    for top in ("images", "labels"):
        (own / top / "train").rename(own / top / "Training")
        (own / top / "val").rename(own / top / "valid")
        touch(own / top / "Training/@eaDir/a.jpg/thumb.png")
    assert [(split, path) for split, path, _ in listed("label_maps", own, val_fraction=0.5)] == [
        ("train", "images/Training/a.jpg"),
        ("train", "images/Training/c.jpg"),
        ("train", "images/Training/deep/b.jpg"),
        ("val", "images/valid/d.jpg"),
    ]
    (own / "labels/valid").rename(own / "labels/later")
    with pytest.raises(SourceError, match=r"labels/val: does not exist"):
        listed("label_maps", own)


@pytest.mark.parametrize("inside", ["", "ADEChallengeData2016"])
def test_ade20k_is_found_in_its_folder_or_its_parent(tmp_path, inside):
    root = tmp_path / inside
    for name in ("training/ADE_train_1", "validation/ADE_val_1"):
        touch(root / f"images/{name}.jpg")
        touch(root / f"annotations/{name}.png")
    touch(root / "objectInfo150.txt", info150(["wall", "building, edifice "]))
    manifest = write_listing(open_source("ade20k", tmp_path), tmp_path / "out")
    assert manifest["categories"] == [{"id": 1, "name": "wall"}, {"id": 2, "name": "building, edifice"}]
    assert manifest["ignore"] == [0]
    assert {split: one["count"] for split, one in manifest["splits"].items()} == {"train": 1, "val": 1}


def test_camvid_has_eleven_classes_and_void(tmp_path):
    for name in ("train", "val"):
        touch(tmp_path / f"CamVid/{name}/0001.png")
        touch(tmp_path / f"CamVid/{name}annot/0001.png")
    manifest = write_listing(open_source("camvid", tmp_path), tmp_path / "out")
    assert [one["id"] for one in manifest["categories"]] == list(range(11))
    assert manifest["categories"][8]["name"] == "car"
    assert manifest["ignore"] == [11]


def test_an_image_without_map_and_a_map_without_image_are_named_with_their_number(own):
    for number in range(4):
        touch(own / f"images/train/lone{number}.jpg")
    (own / "images/val/d.jpg").rename(own / "images/val/other.jpg")
    with pytest.raises(
        SourceError, match=r"4 images without their map.*lone0.jpg \(labels/train/lone0.png\).*\.\.\."
    ):
        listed("label_maps", own)
    for number in range(4):
        (own / f"images/train/lone{number}.jpg").unlink()
    with pytest.raises(
        SourceError, match=r"1 images without .*other.jpg.*1 label maps without .*labels/val/d.png"
    ):
        listed("label_maps", own)


def test_maps_that_are_no_png_do_not_count_as_maps(own):
    (own / "labels/train/a.png").rename(own / "labels/train/a.jpg")
    with pytest.raises(SourceError, match=r"labels/train/a.png"):
        listed("label_maps", own)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (b"", "names 0 classes"),
        (b"a\n\nb\n", "without a name: value 1"),
        (b"a\nb\na\n", "given twice: 'a'"),
        ("\n".join(f"c{n}" for n in range(256)).encode(), "names 256 classes; expected 1 to 255"),
        (b"\xff\xfe", "must name the classes"),
    ],
)
def test_a_list_of_classes_that_cannot_be_is_refused(own, names, message):
    touch(own / "classes.txt", names)
    with pytest.raises(SourceError, match=message) as error:
        listed("label_maps", own)
    assert "classes.txt" in str(error.value)


@pytest.mark.parametrize(
    "text", [b"Idx\tRatio\tTrain\tVal\tName\nwall\n", info150("ab")[:-4] + b"\n7\t1\t1\t1\tc\n"]
)
def test_a_list_of_ade_objects_that_cannot_be_is_named_by_line(tmp_path, text):
    touch(tmp_path / "objectInfo150.txt", text)
    with pytest.raises(SourceError, match=r"objectInfo150.txt, line"):
        listed("ade20k", tmp_path)


def test_folders_that_are_missing_are_named(own, tmp_path):
    for kind in ("label_maps", "ade20k", "camvid"):
        with pytest.raises(SourceError, match="does not exist; expected"):
            listed(kind, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"empty/train: does not exist; expected CamVid with"):
        listed("camvid", tmp_path / "empty")
    (own / "labels/val").rename(own / "labels/elsewhere")
    with pytest.raises(SourceError, match=r"labels/val: does not exist"):
        listed("label_maps", own)
    (own / "labels/train").rename(own / "gone")
    (own / "images/train").rename(own / "gone too")
    with pytest.raises(SourceError, match="none for train"):
        listed("label_maps", own)


def test_comments_in_the_list_of_classes_are_no_classes(own):
    touch(own / "classes.txt", b"# label:color_rgb:parts:actions\nbackground\n # of the street\nroad\n")
    names = open_source("label_maps", own).annotation_info()["categories"]
    assert names == [{"id": 0, "name": "background"}, {"id": 1, "name": "road"}]


def test_the_values_of_the_classes_may_be_given(own):
    about = open_source("label_maps", own, values=[255, 7]).annotation_info()
    assert about["categories"] == [{"id": 7, "name": "road"}, {"id": 255, "name": "background"}]
    assert about["ignore"] == []
    with pytest.raises(SourceError, match=r"classes.txt: names 2 classes, but ingest_segment.values has 3"):
        listed("label_maps", own, values=[0, 1, 2])


def test_classes_that_are_numbered_otherwise_are_refused(own):
    touch(own / "classes.txt", b"1: wall\n2: road\n")
    with pytest.raises(SourceError, match=r"numbers its classes 1 to 2, but .* set ingest_segment.values"):
        listed("label_maps", own)
    assert listed("label_maps", own, values=[1, 2])
    touch(own / "classes.txt", b"0 wall\n1 road\n")
    assert listed("label_maps", own)


def test_two_maps_for_one_image_are_named(own):
    touch(own / "labels/train/a.PNG")
    with pytest.raises(SourceError, match=r"1 label maps of one name: labels/train/a.PNG and .*/a.png"):
        listed("label_maps", own)


def test_two_images_with_one_map_are_named(own):
    touch(own / "images/train/a.png")
    with pytest.raises(SourceError, match=r"1 images that share a map .*: images/train/a.jpg and .*/a.png"):
        listed("label_maps", own)
