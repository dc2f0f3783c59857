import os

import pytest

from mae.data.listing.listing_file import LISTING, Listing
from mae.data.listing.manifest import open_source, write_listing
from mae.data.sources.base import BROKEN_LINK, SourceError, held_out


def entries(root, kind="folder", **options):
    return list(open_source(kind, root, **options).entries())


def touch(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_the_class_is_the_first_folder_however_deep_the_file_lies(tmp_path):
    touch(tmp_path / "train/cat/a.jpg")
    touch(tmp_path / "train/dog/images/deep/b.PNG")
    touch(tmp_path / "val/dog/c.webp")
    found = [(entry.split, entry.path, entry.class_name) for entry in entries(tmp_path)]
    assert found == [
        ("train", "train/cat/a.jpg", "cat"),
        ("train", "train/dog/images/deep/b.PNG", "dog"),
        ("val", "val/dog/c.webp", "dog"),
    ]


def test_tiny_imagenet_labels_its_val_by_annotations(tmp_path):
    for name in ("n01", "n02"):
        touch(tmp_path / f"train/{name}/images/{name}_0.JPEG")
    touch(tmp_path / "val/images/val_0.JPEG")
    annotations = touch(tmp_path / "val/val_annotations.txt", b"val_0.JPEG\tn02\t0\t0\t9\t9\n")
    assert [entry.class_name for entry in entries(tmp_path)] == ["n01", "n02", "n02"]
    touch(tmp_path / "val/images/val_1.JPEG")
    with pytest.raises(SourceError, match=r"val_annotations.txt.*val_1"):
        entries(tmp_path)
    annotations.write_bytes(b"nonsense\n")
    with pytest.raises(SourceError, match="line 1"):
        entries(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "flat"])
def test_a_fraction_held_out_by_name_stays_when_files_are_added(tmp_path, kind):
    for number in range(200):
        touch(tmp_path / f"class/{number}.jpg")
    before = {entry.path: entry.split for entry in entries(tmp_path, kind, val_fraction=0.25)}
    assert 25 <= list(before.values()).count("val") <= 75
    for number in range(200, 300):
        touch(tmp_path / f"class/{number}.jpg")
    after = {entry.path: entry.split for entry in entries(tmp_path, kind, val_fraction=0.25)}
    assert {path: after[path] for path in before} == before


def test_held_out_is_nothing_at_zero():
    assert not any(held_out(str(number), 0.0) for number in range(100))


def test_a_train_folder_without_val_gives_some_away(tmp_path):
    for number in range(100):
        touch(tmp_path / f"train/class/{number}.jpg")
    assert {entry.split for entry in entries(tmp_path, val_fraction=0.3)} == {"train", "val"}


def test_hard_names_links_and_loops_do_not_break_a_listing(tmp_path):
    root = tmp_path / "images"
    names = [
        "with space.jpg",
        "tab\there.jpg",
        "line\nbreak.jpg",
        "back\\slash\\n.jpg",
        "Ünïcode✓.jpg",
        "q\"'.jpg",
    ]
    for name in names:
        touch(root / name)
    touch(root / os.fsdecode(b"latin\xe9.jpg"))
    (root / "loop").symlink_to(root)
    (root / "gone.jpg").symlink_to(root / "nowhere")
    touch(tmp_path / "elsewhere/linked.jpg")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    write_listing(open_source("flat", root), tmp_path / "out")
    listing = Listing(tmp_path / "out")
    expected = {*names, os.fsdecode(b"latin\xe9.jpg"), "gone.jpg", "link/linked.jpg"}
    assert {entry.path for entry in listing} == expected
    assert len(listing) == len(expected)
    assert [entry.path for entry in listing if entry.size == BROKEN_LINK] == ["gone.jpg"]
    assert all((root / entry.path).is_file() for entry in listing if entry.size != BROKEN_LINK)


def test_other_image_formats_are_listed_and_other_files_counted(tmp_path):
    for name in ("a.jpg", "b.GIF", "c.heic", "notes.txt", ".hidden.jpg", "labels.csv"):
        touch(tmp_path / name)
    manifest = write_listing(open_source("flat", tmp_path), tmp_path / "out")
    assert manifest["splits"]["train"]["count"] == 3
    assert manifest["ignored"] == 2


@pytest.mark.parametrize(
    ("files", "kind", "message"),
    [
        ([], "flat", "no images"),
        (["notes.txt"], "folder", "no images"),
        (["val/a/1.jpg"], "folder", "no train/"),
        (["train/a/1.jpg", "val/readme.txt"], "folder", "'val' has no images"),
        (["train/1.jpg"], "folder", "no class folder"),
        (["train/a/1.jpg", "val/b/1.jpg"], "folder", "train lacks: b"),
    ],
)
def test_a_source_that_is_not_as_expected_is_an_error_that_names_it(tmp_path, files, kind, message):
    root = tmp_path / "source"
    root.mkdir()
    for file in files:
        touch(root / file)
    with pytest.raises(SourceError, match=message) as error:
        write_listing(open_source(kind, root), tmp_path / "out")
    assert str(root) in str(error.value)
    assert not list((tmp_path / "out").iterdir())


def test_a_missing_root_or_kind_is_named(tmp_path):
    for kind in ("folder", "flat", "imagenet_tar"):
        with pytest.raises(SourceError, match=r"nowhere: does not exist; expected"):
            write_listing(open_source(kind, tmp_path / "nowhere"), tmp_path / "out")
    with pytest.raises(SourceError, match="lmdb"):
        open_source("lmdb", tmp_path)
    with pytest.raises(SourceError, match="val_fraction"):
        open_source("flat", tmp_path, 1.0)


def test_listing_an_unchanged_source_changes_no_byte_and_no_time(tmp_path, image_tree):
    root = image_tree(tmp_path / "images")
    first = write_listing(open_source("folder", root), tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    before = [(file.name, file.read_bytes(), file.stat().st_mtime_ns) for file in files]
    assert write_listing(open_source("folder", root), tmp_path / "out") == first
    files = sorted((tmp_path / "out").iterdir())
    assert [(file.name, file.read_bytes(), file.stat().st_mtime_ns) for file in files] == before


@pytest.mark.parametrize("change", ["added", "removed", "renamed", "touched", "grown"])
def test_any_change_of_a_source_changes_the_fingerprint(tmp_path, image_tree, change):
    root = image_tree(tmp_path / "images")
    before = write_listing(open_source("folder", root), tmp_path / "out")["fingerprint"]
    file = root / "train/class_0/train 0 3.JPEG"
    if change == "added":
        touch(root / "train/class_0/new.jpg")
    elif change == "removed":
        file.unlink()
    elif change == "renamed":
        file.rename(file.with_name("other.jpg"))
    elif change == "touched":
        os.utime(file, ns=(1, 1))
    else:
        file.write_bytes(file.read_bytes() + b"x")
    assert write_listing(open_source("folder", root), tmp_path / "out")["fingerprint"] != before


def test_the_manifest_counts_what_is_there(tmp_path, image_tree):
    root = image_tree(tmp_path / "images")
    manifest = write_listing(open_source("folder", root), tmp_path / "out")
    assert {split: one["count"] for split, one in manifest["splits"].items()} == {"train": 41, "val": 9}
    assert manifest["classes"] == ["class_0", "class_1", "class_2"]
    train = (root / "train").rglob("*.JPEG")
    assert manifest["splits"]["train"]["bytes"] == sum(file.stat().st_size for file in train)


def test_a_listing_that_does_not_fit_its_manifest_is_refused(tmp_path, image_tree):
    write_listing(open_source("folder", image_tree(tmp_path / "images")), tmp_path / "out")
    listing = tmp_path / "out" / LISTING
    listing.write_bytes(b"\n".join(listing.read_bytes().split(b"\n")[3:]))
    with pytest.raises(SourceError, match="run ingest again"):
        Listing(tmp_path / "out")
