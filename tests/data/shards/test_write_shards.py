import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mae.data.listing.manifest import open_source, write_listing
from mae.data.shards.index import Index
from mae.data.shards.shard_writer import SourceChanged
from mae.data.shards.write_shards import TooManyRejected, write_shards
from mae.files import DiskFull


def contents(directory: Path) -> dict[str, str]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def shard(place: Path, root: Path, name: str = "out", kind: str = "folder", **options) -> dict:
    write_listing(open_source(kind, root), place / f"{name}.listing")
    options = {"max_count": 7, **options}
    return write_shards(place / f"{name}.listing", place / name, place / f"{name}.work", **options)


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
    monkeypatch.setattr("mae.data.shards.write_shards.ShardWriter", lambda *_, **__: pytest.fail("wrote"))
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


def test_more_bad_images_than_allowed_are_an_error_that_names_them(tmp_path, image_tree):
    root = image_tree(tmp_path / "images")
    for number in range(5):
        (root / f"train/class_0/bad{number}.jpg").write_bytes(b"bad")
    with pytest.raises(TooManyRejected, match=r"max_rejected.*class_0.*rejected\.json"):
        shard(tmp_path, root, max_rejected=4)
    assert not (tmp_path / "out/index.json").exists()
    shard(tmp_path, root, max_rejected=5)
    assert len(Index.open(tmp_path / "out").split("train")) == 41


def test_the_bound_on_bad_images_may_be_a_share_and_names_its_section(tmp_path, image_tree):
    root = image_tree(tmp_path / "images")  # 50 images
    for number in range(5):
        (root / f"train/class_0/bad{number}.jpg").write_bytes(b"bad")
    with pytest.raises(
        TooManyRejected, match=r"^5 .* 4 are allowed \(shard_detect.max_rejected 0.09 of 55\)"
    ):
        shard(tmp_path, root, max_rejected=0.09, section="shard_detect")
    assert shard(tmp_path, root, max_rejected=0.1)["rejected"]["count"] == 5


def test_a_shard_whose_images_are_all_bad_leaves_no_gap(tmp_path, image_tree):
    root = image_tree(tmp_path / "images")
    for number in range(4):
        (root / f"train/class_1/bad{number}.jpg").write_bytes(b"bad")
    index = shard(tmp_path, root, max_count=1, max_rejected=4)
    names = [one["name"] for one in index["splits"]["train"]["shards"]]
    assert names == [f"train-{number:06d}.tar" for number in range(41)]
    split = Index.open(tmp_path / "out").split("train")
    assert len({split.meta(row)["path"] for row in range(41)}) == 41


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
    with pytest.raises(DiskFull, match=r"train-.*no space left.*run again"):
        shard(tmp_path, root)
    monkeypatch.undo()
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]
    shard(tmp_path, root)
    shard(tmp_path, root, "clean")
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


_SLOW = """
import sys, time
from mae.data.shards import shard_writer, write_shards as shards
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
        deadline = time.monotonic() + 180
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
    assert [path.name for path in (tmp_path / "out.work").iterdir()] == ["done.json"]


def test_the_next_run_removes_what_one_left_that_was_killed_at_its_end(tmp_path, image_tree):
    root = image_tree(tmp_path / "images")
    shard(tmp_path, root)
    left = tmp_path / "out.work/train-000000.tar.json"
    left.write_text("{}")
    said: list[str] = []
    shard(tmp_path, root, log=said.append)
    assert said[-1].endswith("unchanged, nothing to do")
    assert not left.exists()


def test_work_left_by_other_settings_is_not_taken(tmp_path, image_tree, monkeypatch):
    root = image_tree(tmp_path / "images")
    monkeypatch.setattr(
        "mae.data.shards.write_shards.publish", lambda *_: {"splits": {}, "rejected": {"count": 0}}
    )
    shard(tmp_path, root, seed=1)
    monkeypatch.undo()
    said: list[str] = []
    shard(tmp_path, root, seed=0, log=said.append)
    assert not any("resuming" in line for line in said)
    shard(tmp_path, root, "clean", seed=0)
    assert contents(tmp_path / "out") == contents(tmp_path / "clean")


def test_a_source_without_a_val_split_gives_none(tmp_path, image_tree):
    index = shard(tmp_path, image_tree(tmp_path / "images", val=()))
    assert list(index["splits"]) == ["train"]
    assert Index.open(tmp_path / "out").about == index


def test_sharding_imports_no_torch(project):
    code = "import sys, mae.data.shards.write_shards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=project, check=False).returncode == 0


def test_settings_that_cannot_be_are_refused(tmp_path, image_tree):
    root = image_tree(tmp_path / "images")
    for wrong in ({"max_count": 0}, {"max_bytes": 0}, {"max_side": 0}, {"quality": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            shard(tmp_path, root, **wrong)
