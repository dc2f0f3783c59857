"""Images that are not where they seem to be: names of splits, roots too high, storage folders, pipes."""

import os
import socket
from pathlib import Path

import pytest

from mae.data.listing.manifest import open_source, write_listing
from mae.data.sources.base import SourceError
from mae.files import read_json


def plant(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"x")
    return root


def listed(root: Path, kind: str = "folder", val_fraction: float = 0.0) -> tuple[list, dict]:
    """Split and class of each listed image by its path; the summary."""
    source = open_source(kind, root, val_fraction)
    entries = {entry.path: (entry.split, entry.class_name) for entry in source.entries()}
    write_listing(open_source(kind, root, val_fraction), root.parent / "listing")
    return entries, read_json(root.parent / "listing" / "summary.json")


@pytest.mark.parametrize(
    ("train", "val"),
    [("training", "validation"), ("Train", "Val"), ("TRAINING", "valid"), ("train", "Valid")],
)
def test_the_usual_names_of_splits_are_splits_in_any_case(tmp_path, train, val):
    root = plant(tmp_path / "set", f"{train}/a/1.jpg", f"{train}/b/2.jpg", f"{val}/a/3.jpg")
    found, summary = listed(root, val_fraction=0.2)
    assert found == {
        f"{train}/a/1.jpg": ("train", "a"),
        f"{train}/b/2.jpg": ("train", "b"),
        f"{val}/a/3.jpg": ("val", "a"),
    }
    assert any("val_fraction 0.2 holds nothing out" in line for line in summary["warnings"])


def test_test_serves_as_val_only_where_nothing_else_does_and_it_is_said(tmp_path):
    root = plant(tmp_path / "set", "train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg")
    found, summary = listed(root)
    assert found["test/a/3.jpg"] == ("val", "a")
    assert any("test: serves as the split val" in line for line in summary["warnings"])
    plant(root, *(f"train/{name}/{number}.jpg" for name in "ab" for number in range(20)))
    assert "test/a/3.jpg" not in listed(root, val_fraction=0.2)[0]  # kept for a test
    plant(root, "valid/a/4.jpg")
    found, summary = listed(root)
    assert found["valid/a/4.jpg"] == ("val", "a")
    assert "test/a/3.jpg" not in found
    assert summary["left_out"]["entries next to the splits"] == {"count": 1, "examples": ["test/"]}


def test_a_test_set_without_labels_is_left_out_as_before(tmp_path):
    root = plant(tmp_path / "set", "train/a/1.jpg", "train/b/2.jpg", "test/3.jpg")
    found, summary = listed(root)
    assert "test/3.jpg" not in found
    assert any("--set ingest.val_fraction=0.1" in line for line in summary["warnings"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train_set/a/1.jpg", "test_set/a/2.jpg"], "train_set/ and test_set/: called like splits"),
        (
            ["seg_train/a/1.jpg", "seg_test/a/2.jpg", "seg_pred/3.jpg"],
            "seg_train/ and seg_test/: called like",
        ),
        (["trainset/a/1.jpg", "Val-2017/a/2.jpg"], "trainset/ and Val-2017/: called like splits"),
        (["a/1.jpg", "test/a/2.jpg"], "test/: called like splits"),
        (["Training/a/1.jpg", "training/a/1.jpg"], "both names of the split 'train'"),
        (["valid/a/1.jpg"], "has valid/ but no train/"),
    ],
)
def test_folders_called_like_splits_never_become_classes(tmp_path, files, message):
    with pytest.raises(SourceError, match=message):
        listed(plant(tmp_path / "set", *files))


def test_classes_may_be_called_like_splits(tmp_path):
    vehicles = plant(tmp_path / "set", *(f"{name}/{at}.jpg" for name in ("Bus", "Train") for at in range(2)))
    found, summary = listed(vehicles)
    assert found["Train/0.jpg"] == ("train", "Train")
    assert any("Train/ holds no folder, so it is read as a class" in line for line in summary["warnings"])
    places = (f"{name}/{at}.jpg" for name in ("bullet_train", "test_tube", "a", "b", "c") for at in range(2))
    assert len(listed(plant(tmp_path / "places", *places))[0]) == 10


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        (["dataset/train/a/1.jpg", "dataset/val/a/2.jpg"], "dataset"),
        (["dataset/Training/a/1.jpg", "dataset/Training/b/1.jpg", "readme.txt"], "dataset"),
        (["photos/set/train/a/1.jpg", "photos/set/test/a/1.jpg", "scripts/x.py"], "photos/set"),
        (
            [
                *(f"ILSVRC/Data/CLS-LOC/{name}.JPEG" for name in ("train/n01/1", "val/1", "test/1")),
                *(f"ILSVRC/Annotations/CLS-LOC/{name}.xml" for name in ("train/n01/1", "val/1")),
            ],
            "ILSVRC/Data/CLS-LOC",
        ),
        (["dataset/cat/1.jpg", "dataset/dog/1.jpg"], "dataset"),
        (["images/cat/1.jpg", "images/dog/1.jpg", "annotations/cat/1.xml"], "images"),
        (["outer/dataset/cat/1.jpg", "outer/dataset/dog/1.jpg"], "outer/dataset"),
        (["train/images/cat/1.jpg", "train/images/dog/1.jpg", "val/images/cat/2.jpg"], "train/images"),
    ],
)
def test_a_root_too_high_names_the_root_to_give(tmp_path, files, wanted):
    root = plant(tmp_path / "set", *files)
    with pytest.raises(SourceError, match=f"set ingest.root to {root / wanted}( or|$)"):
        write_listing(open_source("folder", root, 0.1), tmp_path / "listing")


def test_a_root_too_low_names_the_folder_with_all_splits(tmp_path):
    root = plant(tmp_path / "set", "train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg")
    warnings = listed(root / "train")[1]["warnings"]
    assert any(f"next to it is val/: set ingest.root to {root} to use both" in line for line in warnings)


def test_several_folders_with_splits_of_their_own_are_no_classes(tmp_path):
    files = (f"{name}/{split}/1.jpg" for name in ("cat", "dog") for split in ("train", "val"))
    with pytest.raises(SourceError, match=r"cat/ and dog/ hold splits of their own.*train/<class>/"):
        listed(plant(tmp_path / "set", *files))


def test_folders_of_storage_systems_are_no_classes_and_are_not_walked(tmp_path):
    strange = ("@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found")
    files = [f"{name}/{at}.jpg" for name in ("cat", "dog") for at in range(2)]
    thumbnails = [f"{name}/1.jpg" for name in strange] + ["cat/@EADIR/0.jpg/SYNOPHOTO_THUMB_M.jpg"]
    root = plant(tmp_path / "set", *files, *thumbnails)
    for kind in ("folder", "flat"):
        found, summary = listed(root, kind)
        assert sorted(found) == files
        assert summary["left_out"]["folders of storage systems and archives"]["count"] == 7


def test_what_lies_next_to_the_splits_is_counted_by_name_and_may_be_unreadable(tmp_path, monkeypatch):
    root = plant(tmp_path / "set", "train/a/1.jpg", "val/a/2.jpg", "old/deep/3.jpg", "notes.txt")
    real = os.scandir

    def refused(path):
        if Path(path).name == "old":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert listed(root)[1]["left_out"] == {
        "entries next to the splits": {"count": 2, "examples": ["notes.txt", "old/"]}
    }
    with pytest.raises(SourceError, match=r"old: cannot be read \(Permission denied\); allow"):
        listed(root, "flat")


@pytest.mark.parametrize("kind", ["folder", "flat"])
def test_only_regular_files_are_images(tmp_path, kind):
    root = plant(tmp_path / "set", "a/1.jpg", "b/2.jpg")
    os.mkfifo(root / "a/pipe.jpg")
    os.mkfifo(root / "a/pipe")
    (root / "b/device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(root / "b")  # a socket's path is short
        server.bind("s.jpg")
        os.chdir(here)
        found, summary = listed(root, kind)
    assert sorted(found) == ["a/1.jpg", "b/2.jpg"]
    assert summary["left_out"]["pipes, sockets or devices"]["count"] == 4


def test_files_without_an_ending_are_looked_at_and_others_are_named(tmp_path, encoded, picture):
    names = ("a/1.jpg", "b/2.jpg", "a/LICENSE", "a/Makefile", "b/3.jpg.bak", "b/4.jpg~")
    root = plant(tmp_path / "set", *names)
    for format in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"):
        (root / "a" / format).write_bytes(encoded(picture(1), format))
    (root / "b/5.jpg_large").write_bytes(encoded(picture(1)))
    (root / "b/gone").symlink_to("nowhere")
    plant(root, "b/BMX")  # begins as a BMP, and is none
    (root / "b/BMX").write_bytes(b"BMX is a sport, and this is a text")
    found, summary = listed(root)
    assert len(found) == 9
    assert summary["left_out"] == {
        "files without an image's ending": {"count": 2, "examples": ["b/3.jpg.bak", "b/4.jpg~"]},
        "files without any usual ending that hold no image": {
            "count": 4,
            "examples": ["a/LICENSE", "a/Makefile", "b/BMX"],
        },
    }
    assert not any("more files are left out" in line for line in summary["warnings"])
    plant(root, *(f"b/{number}.jpg.bak" for number in range(9)))
    assert "more files are left out (14) than images are listed (9)" in listed(root)[1]["warnings"]


def test_val_fraction_holds_out_within_each_class(tmp_path):
    counts = {"one": 1, "two": 2, "few": 5, "many": 60}
    root = plant(tmp_path / "set", *(f"{name}/{at}.jpg" for name, n in counts.items() for at in range(n)))
    for fraction in (0.01, 0.2, 0.99):
        found = list(listed(root, val_fraction=fraction)[0].values())
        for name, count in counts.items():
            held = found.count(("val", name))
            assert held + found.count(("train", name)) == count
            assert held == 0 if count == 1 else 1 <= held < count


def test_the_summary_says_which_classes_are_few_alone_or_never_evaluated(tmp_path):
    root = plant(tmp_path / "set", "train/a/1.jpg", *(f"train/b/{at}.jpg" for at in range(3)), "val/b/1.jpg")
    plant(root, *(f"train/B/{at}.jpg" for at in range(5)))
    _, summary = listed(root)
    assert summary["images_per_class"] == {
        "least": {"class": "a", "images": 1},
        "median": 3,
        "most": {"class": "B", "images": 5},
    }
    assert summary["warnings"] == [
        "classes with a single image in train, 1: a",
        "classes that look alike (case, blanks or Unicode's form), 2: B, b",
        "classes of train without an image in val, 2: B, a",
    ]
    alone = plant(tmp_path / "alone/set", "train/a/1.jpg", "train/a/2.jpg", "val/a/3.jpg")
    assert any("one class alone, 'a'" in line for line in listed(alone)[1]["warnings"])


@pytest.mark.parametrize("other", ["test1", "test_images", "validation_data", "val2017"])
def test_a_train_without_class_folders_is_no_class_next_to_a_split(tmp_path, other):
    root = plant(tmp_path / "set", "train/cat.0.jpg", "train/dog.0.jpg", f"{other}/1.jpg")
    with pytest.raises(SourceError, match=rf"train: holds no folder of a class, and {other}/ .*flat"):
        listed(root)


def test_a_val_without_train_names_what_may_be_train(tmp_path):
    root = plant(tmp_path / "set", "train_mini/a/1.jpg", "val/a/1.jpg")
    with pytest.raises(SourceError, match="is it train_mini/\\? rename or link it to train/"):
        listed(root)


def test_classes_that_hold_the_same_folders_may_be_domains_or_folds(tmp_path):
    outer, inner = ("color", "grayscale"), ("scab", "healthy")
    files = [f"{domain}/{name}/{at}.jpg" for domain in outer for name in inner for at in range(2)]
    root = plant(tmp_path / "set", *files)
    said = [line for line in listed(root)[1]["warnings"] if "holds the folders healthy, scab" in line]
    assert len(said) == 1
    plant(root, "color/0.jpg")  # an image of the class itself
    assert not any("holds the folders" in line for line in listed(root)[1]["warnings"])


def test_a_class_folder_without_an_image_is_said(tmp_path):
    root = plant(tmp_path / "set", "train/a/1.jpg", "train/b/2.jpg", "val/a/3.jpg", "val/b/4.jpg")
    (root / "train/c").mkdir()
    (left_out,) = listed(root)[1]["left_out"].items()
    assert left_out == (
        "folders without an image, so that no class has their names",
        {"count": 1, "examples": ["train/c/"]},
    )


def test_classes_in_two_forms_of_unicode_look_alike(tmp_path):
    root = plant(tmp_path / "set", *(f"{name}/{at}.jpg" for name in ("\u00e9", "e\u0301") for at in "12"))
    assert any("look alike" in line for line in listed(root)[1]["warnings"])


def test_a_flat_source_says_that_it_mixes_splits(tmp_path):
    root = plant(tmp_path / "set", "train/1.jpg", "test/2.jpg")
    assert any("are no splits for this source" in line for line in listed(root, "flat")[1]["warnings"])
