import errno
import gc
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae.data.files import DiskFull
from mae.data.index import Index
from mae.data.manifest import open_source, write_listing
from mae.data.shard_plan import cut
from mae.data.shard_writer import SourceChanged, header
from mae.data.shards import TooManyRejected, write_shards


def contents(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shard(place: Path, root: Path, name: str = "out", kind: str = "folder", **options) -> dict:
    write_listing(open_source(kind, root), place / f"{name}.listing")
    options = {"max_count": 7, **options}
    return write_shards(place / f"{name}.listing", place / name, place / f"{name}.work", **options)


def test_original_bytes_are_copied_with_their_class_and_place(tmp_path, image_tree, sharded):
    root = image_tree(tmp_path / "images")
    index = sharded(root)
    for name in ("train", "val"):
        split = index.split(name)
        paths = set()
        for row in range(len(split)):
            about = split.meta(row)
            assert split.read(row) == (root / about["path"]).read_bytes()
            assert about["path"].split("/")[1] == about["class"] == index.classes[split.label(row)]
            assert (about["width"], about["height"]) == (40, 32)
            paths.add(about["path"])
        assert paths == {str(path.relative_to(root)) for path in (root / name).rglob("*.JPEG")}


def test_shards_are_webdataset_tars_named_by_content_with_dotless_keys(tmp_path, image_tree, sharded):
    index = sharded(image_tree(tmp_path / "images"))
    members = []
    for tar in sorted((index.directory / "tars").glob("train-*.tar")):
        with tarfile.open(tar) as file:
            found = file.getmembers()
        members += [member.name for member in found]
        assert {(member.mtime, member.uid, member.gid) for member in found} == {(0, 0, 0)}
    keys = [name.split(".")[0] for name in members]
    assert keys == sorted(keys)
    assert len(set(keys)) == 41
    groups = {key: [name.split(".", 1)[1] for name in members if name.startswith(f"{key}.")] for key in keys}
    assert sorted({tuple(group) for group in groups.values()}) == [
        ("jpg", "cls", "json"),
        ("png", "cls", "json"),
    ]
    assert sum(group[0] == "png" for group in groups.values()) == 3


@pytest.mark.filterwarnings("ignore:unclosed file")  # webdataset leaves the files it read to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_plain_webdataset_package_reads_the_same_samples(small_index):
    import webdataset

    split = small_index.split("train")
    urls = [str(split.directory / shard) for shard in split.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
    assert len(samples) == len(split) == 41
    for row, sample in enumerate(samples):
        assert sample.get("jpg", sample.get("png")) == split.read(row)
        assert int(sample["cls"]) == split.label(row)
        assert json.loads(sample["json"])["path"] == split.meta(row)["path"]
    gc.collect()


def test_the_index_counts_hashes_and_bounds_every_shard(small_index):
    for split, count in (("train", 41), ("val", 9)):
        about = small_index.about["splits"][split]
        assert about["count"] == sum(shard["count"] for shard in about["shards"]) == count
        for shard in about["shards"]:
            path = small_index.directory / "tars" / shard["name"]
            assert shard["bytes"] == path.stat().st_size
            assert shard["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert 4 <= shard["count"] <= 7
    assert small_index.classes == ["class_0", "class_1", "class_2"]


def test_shards_are_class_mixed(small_index):
    split = small_index.split("train")
    for number in range(len(split.shards)):
        assert len(set(split.labels[split.shard_of == number])) > 1


def test_the_number_of_workers_changes_no_byte_and_another_seed_changes_the_order(tmp_path, image_tree):
    root = image_tree(tmp_path / "images")
    for name, options in {"one": {}, "two": {"workers": 2}, "other": {"seed": 1}}.items():
        shard(tmp_path, root, name, **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    one, other = (json.loads((tmp_path / name / "index.json").read_bytes()) for name in ("one", "other"))
    assert one["splits"]["train"]["shards"] != other["splits"]["train"]["shards"]
    assert one["fingerprint"] == other["fingerprint"]


def test_times_and_places_of_the_source_do_not_enter_the_shards(tmp_path, image_tree):
    for name in ("here", "there"):
        root = image_tree(tmp_path / f"{name}.images")
        if name == "there":
            for path in root.rglob("*.JPEG"):
                os.utime(path, ns=(5, 5))
        shard(tmp_path, root, name)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


def test_an_unchanged_source_is_not_sharded_again(tmp_path, image_tree, monkeypatch):
    root = image_tree(tmp_path / "images")
    first = shard(tmp_path, root)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    monkeypatch.setattr("mae.data.shards.ShardWriter", lambda *_, **__: pytest.fail("wrote"))
    said: list[str] = []
    assert shard(tmp_path, root, log=said.append) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert "nothing to do" in said[0]


def test_a_smaller_set_leaves_no_shard_of_the_larger_behind(tmp_path, image_tree):
    root = image_tree(tmp_path / "images")
    shard(tmp_path, root, max_count=3)
    shard(tmp_path, root, max_count=50)
    assert sorted(path.name for path in (tmp_path / "out/tars").iterdir()) == [
        "train-000000.tar", "train.samples.npy", "val-000000.tar", "val.samples.npy",
    ]  # fmt: skip


def damage(root: Path, encoded, picture) -> dict[str, str]:
    """Bad files of many kinds, with the reason that must be given for each."""
    folder = root / "train/class_0"
    whole = encoded(picture(1, 200, 160))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_bytes(b"hello")
    (folder / "old.gif").write_bytes(encoded(picture(1), "GIF"))
    (folder / "broken.jpg").symlink_to("nowhere")
    reasons = {"empty.jpg": "zero bytes", "cut.jpg": "truncated", "text.png": "not an image"}
    return reasons | {"old.gif": "convert it", "broken.jpg": "link"}


def test_bad_images_are_left_out_and_reported_by_name(tmp_path, image_tree, encoded, picture):
    root = image_tree(tmp_path / "images")
    reasons = damage(root, encoded, picture)
    index = shard(tmp_path, root, max_rejected=5)
    rejected = json.loads((tmp_path / "out/rejected.json").read_bytes())["rejected"]
    assert {Path(one["path"]).name for one in rejected} == set(reasons)
    assert all(reasons[Path(one["path"]).name] in one["reason"] for one in rejected)
    assert index["splits"]["train"]["count"] == 41
    assert index["rejected"]["count"] == 5


def test_more_bad_images_than_allowed_are_an_error_that_names_them(tmp_path, image_tree, encoded, picture):
    root = image_tree(tmp_path / "images")
    damage(root, encoded, picture)
    with pytest.raises(TooManyRejected, match=r"max_rejected.*class_0.*rejected\.json"):
        shard(tmp_path, root, max_rejected=4)
    assert not (tmp_path / "out/index.json").exists()
    shard(tmp_path, root, max_rejected=5)
    assert len(Index.open(tmp_path / "out").split("train")) == 41


def test_a_shard_whose_images_are_all_bad_leaves_no_gap(tmp_path, image_tree):
    root = image_tree(tmp_path / "images")
    for number in range(4):
        (root / f"train/class_1/bad{number}.jpg").write_bytes(b"bad")
    index = shard(tmp_path, root, max_count=1, max_rejected=4)
    names = [one["name"] for one in index["splits"]["train"]["shards"]]
    assert names == [f"train-{number:06d}.tar" for number in range(41)]
    split = Index.open(tmp_path / "out").split("train")
    assert len({split.meta(row)["path"] for row in range(41)}) == 41


def test_images_above_max_side_are_reduced_and_the_index_says_so(tmp_path, image_tree, encoded, picture):
    root = image_tree(tmp_path / "images")
    (root / "train/class_0/large.png").write_bytes(encoded(picture(3, 300, 100), "PNG"))
    index = shard(tmp_path, root, max_side=60, quality=85)
    assert index["resized"] == {"max_side": 60, "quality": 85, "count": 1}
    split = Index.open(tmp_path / "out").split("train")
    for row in range(len(split)):
        about = split.meta(row)
        if about["path"].endswith("large.png"):
            assert (
                (about["width"], about["height"]) == Image.open(io.BytesIO(split.read(row))).size == (60, 20)
            )
        else:
            assert split.read(row) == (root / about["path"]).read_bytes()


@pytest.mark.parametrize("change", ["gone", "shorter", "longer"])
def test_a_source_that_changes_under_the_run_is_an_error_that_names_the_file(tmp_path, image_tree, change):
    root = image_tree(tmp_path / "images")
    write_listing(open_source("folder", root), tmp_path / "listing")
    file = root / "train/class_1/train 1 5.JPEG"
    workers = 2 if change == "gone" else 0
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9] if change == "shorter" else file.read_bytes() + b"more")
    with pytest.raises(SourceChanged, match="train 1 5"):
        write_shards(tmp_path / "listing", tmp_path / "out", tmp_path / "work", max_count=7, workers=workers)
    assert not (tmp_path / "out/index.json").exists()


def test_a_full_disk_is_a_clear_error_and_leaves_no_half_file(tmp_path, image_tree, monkeypatch):
    root = image_tree(tmp_path / "images")
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"no room left.*train-.*run again"):
        shard(tmp_path, root)
    monkeypatch.undo()
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]
    shard(tmp_path, root)
    shard(tmp_path, root, "clean")
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


_SLOW = """
import sys, time
from mae.data import shard_writer, shards
if __name__ == "__main__":
    check = shard_writer.check
    shard_writer.check = lambda data: (time.sleep(0.03), check(data))[1]
    shards.write_shards(*sys.argv[1:4], max_count=7)
"""


def test_a_killed_run_goes_on_where_it_was_and_gives_the_same_bytes(tmp_path, image_tree, project):
    root = image_tree(tmp_path / "images")
    write_listing(open_source("folder", root), tmp_path / "out.listing")
    places = [str(tmp_path / name) for name in ("out.listing", "out", "out.work")]
    run = subprocess.Popen([sys.executable, "-c", _SLOW, *places], cwd=project)
    try:
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "out.work").glob("*.tar.json"))) < 3:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert not (tmp_path / "out/index.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.work").glob("*.tar")}
    said: list[str] = []
    shard(tmp_path, root, log=said.append)
    assert said[0].startswith(f"resuming: {len(kept)} of 8")
    assert all((tmp_path / "out/tars" / path.name).stat().st_mtime_ns == time for path, time in kept.items())
    shard(tmp_path, root, "clean")
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")
    assert sorted(path.name for path in (tmp_path / "out.work").iterdir()) == ["done.json", "job.json"]


def test_work_left_by_other_settings_is_not_taken(tmp_path, image_tree, monkeypatch):
    root = image_tree(tmp_path / "images")
    monkeypatch.setattr("mae.data.shards.publish", lambda *_: {"splits": {}, "rejected": {"count": 0}})
    shard(tmp_path, root, seed=1)
    monkeypatch.undo()
    said: list[str] = []
    shard(tmp_path, root, seed=0, log=said.append)
    assert not any("resuming" in line for line in said)
    shard(tmp_path, root, "clean", seed=0)
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def test_an_unlabelled_folder_gives_shards_without_classes(tmp_path, image_tree, sharded):
    index = sharded(image_tree(tmp_path / "images") / "train", "flat", val_fraction=0.3)
    assert index.classes == []
    split = index.split("train")
    assert set(split.labels) == {-1}
    with tarfile.open(split.directory / split.shards[0]) as tar:
        assert not [name for name in tar.getnames() if name.endswith(".cls")]
    assert "class" not in split.meta(0)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 77_777, 8**11 - 1, 8**11])
def test_tar_headers_are_those_of_the_tarfile_module(size):
    for name in ("000000000.jpg", "123456789.webp", "0.json"):
        member = tarfile.TarInfo(name)
        member.size = size
        assert header(name, size) == member.tobuf(
            tarfile.GNU_FORMAT if size >= 8**11 else tarfile.USTAR_FORMAT
        )


@pytest.mark.parametrize(("count", "size"), [(1, 10**9), (7, 10**9), (1000, 500), (9, 300), (1000, 1)])
def test_cuts_keep_both_bounds_lose_nothing_and_are_of_like_size(count, size):
    sizes = np.random.default_rng(0).integers(1, 120, 101)
    ends = cut(sizes, count, size)
    parts = np.split(sizes, ends[:-1])
    assert ends[-1] == len(sizes)
    assert all(len(part) <= count and (part.sum() <= size or len(part) == 1) for part in parts)
    if len(parts) > 1:
        assert len(parts[-1]) >= len(parts[0]) // 2


def test_settings_that_cannot_be_are_refused(tmp_path, image_tree):
    root = image_tree(tmp_path / "images")
    for wrong in ({"max_count": 0}, {"max_bytes": 0}, {"max_side": 0}, {"quality": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            shard(tmp_path, root, **wrong)
