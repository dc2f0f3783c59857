"""A second batch: what was sharded before is taken over, byte for byte, and only the rest is written."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mae.data.listing.manifest import open_source, write_listing
from mae.data.loading.epoch_order import EpochOrder
from mae.data.shards.index import Index
from mae.data.shards.write_shards import write_shards


class Place:
    """A source, listed and sharded again and again below `folder`."""

    def __init__(self, folder: Path, root: Path, kind: str = "folder") -> None:
        self.folder, self.root, self.kind = folder, root, kind
        self.said: list[str] = []

    def shard(self, out: str = "out", kept: str | None = "kept", **options) -> Index:
        write_listing(open_source(self.kind, self.root), self.folder / "listing")
        self.said.clear()
        reuse_dir = None if kept is None else self.folder / kept
        places = (self.folder / "listing", self.folder / out, self.folder / f"{out}.work")
        write_shards(*places, reuse_dir=reuse_dir, log=self.said.append, **{"max_count": 7, **options})
        return Index.open(self.folder / out)

    def written(self) -> int:
        line = next(line for line in self.said if line.startswith("reuse "))
        return int(line.rpartition("write ")[2].split()[0])


@pytest.fixture
def place(tmp_path, image_tree):
    return Place(tmp_path, image_tree(tmp_path / "images"))


def tars(index: Index) -> dict[str, str]:
    """sha256 -> name of the shards."""
    return {one["sha256"]: one["name"] for split in index.about["splits"].values() for one in split["shards"]}


def held(index: Index) -> Counter:
    """Count each image in the shards, by path and bytes."""
    splits = [index.split(name) for name in index.about["splits"]]
    return Counter(
        (split.meta(row)["path"], hashlib.sha256(split.read(row)).hexdigest())
        for split in splits
        for row in range(len(split))
    )


def add(root: Path, encoded, picture, count: int = 10, label: str = "class_1") -> None:
    for number in range(count):
        file = root / f"train/{label}/new {number}.jpg"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encoded(picture(50_000 + number)))


def test_new_images_come_into_shards_after_the_old_ones_which_stay_as_they_are(place, encoded, picture):
    before = place.shard()
    inodes = {path.name: path.stat().st_ino for path in (before.directory / "tars").glob("*.tar")}
    add(place.root, encoded, picture)
    after = place.shard()
    assert place.said[0] == "reuse 8 shards (50 images), write 2 new"
    assert tars(before).items() <= tars(after).items()
    assert (
        inodes.items()
        <= {path.name: path.stat().st_ino for path in (after.directory / "tars").glob("*.tar")}.items()
    )
    assert [one["count"] for one in after.about["splits"]["train"]["shards"]][-2:] == [5, 5]
    fresh = place.shard("fresh", kept=None)
    assert held(after) == held(fresh)
    assert set(held(after).values()) == {1}
    assert after.about["fingerprint"] == fresh.about["fingerprint"]
    assert place.shard().about == after.about
    assert "nothing to do" in place.said[0]


def test_without_a_history_the_shards_are_the_ones_they_always_were(place):
    kept, fresh = place.shard(), place.shard("fresh", kept=None)
    assert kept.about == fresh.about
    assert [line for line in place.said if line.startswith("reuse")] == []


def test_keys_stay_apart_over_many_batches(place, encoded, picture):
    place.shard()
    for batch in range(3):
        add(place.root, encoded, picture, 3 * (batch + 1), "class_0")
        (place.root / f"train/class_2/train 2 {batch}.JPEG").unlink()
        index = place.shard()
    keys = []
    for shard in index.split("train").shards:
        with tarfile.open(index.directory / "tars" / shard) as tar:
            keys += [name.split(".")[0] for name in tar.getnames() if name.endswith(".cls")]
    assert keys == sorted(set(keys))
    assert len(keys) == len(index.split("train"))
    assert set(held(index).values()) == {1}


@pytest.mark.parametrize("change", ["removed", "other bytes", "touched", "renamed"])
def test_a_shard_with_a_removed_or_changed_image_is_dropped_and_the_rest_of_it_written_again(
    place, encoded, picture, change
):
    before = place.shard()
    file = place.root / "train/class_1/train 1 5.JPEG"
    if change == "removed":
        file.unlink()
    elif change == "renamed":
        file.rename(file.with_name("another.JPEG"))
    elif change == "touched":
        os.utime(file, ns=(5, 5))
    else:
        file.write_bytes(encoded(picture(77)))
    after = place.shard()
    assert place.written() == 1
    assert any("1 earlier shards hold removed or changed images" in line for line in place.said)
    assert len(tars(before).keys() - tars(after).keys()) <= 1
    assert held(after) == held(place.shard("fresh", kept=None))
    assert [one["name"] for one in after.about["splits"]["train"]["shards"]] == [
        f"train-{number:06d}.tar" for number in range(6)
    ]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"max_count": 5}, {"max_bytes": 9000}, {"max_side": 20}, {"class": "a_new_one"}]
)
def test_shards_made_by_other_settings_or_classes_are_not_taken(place, encoded, picture, change):
    place.shard()
    options = dict(change)
    if label := options.pop("class", None):
        add(place.root, encoded, picture, 3, label)
    after = place.shard(**options)
    name = "classes" if label else next(iter(options))
    assert "made with other settings" in place.said[0]
    assert name in place.said[0]
    assert after.about == place.shard("fresh", kept=None, **options).about


@pytest.mark.parametrize("damage", ["altered", "truncated", "missing", "no record", "moved"])
def test_a_kept_shard_that_is_not_whole_is_written_again(place, encoded, picture, damage):
    place.shard()
    add(place.root, encoded, picture)
    noted = json.loads((place.folder / "kept/kept.json").read_bytes())
    victim = place.folder / f"kept/{noted['shards'][0]['key']}.tar"
    data = victim.read_bytes()
    victim.unlink()
    if damage == "altered":
        victim.write_bytes(data[:700] + bytes([data[700] ^ 1]) + data[701:])
    elif damage == "truncated":
        victim.write_bytes(data[:-512])
    elif damage in ("moved", "no record"):  # whole, but not the file it was
        victim.write_bytes(data)
    if damage == "no record":
        victim.with_suffix(".json").write_text("{")
    after = place.shard()
    assert place.written() == (2 if damage == "moved" else 3)
    after.verify()
    assert held(after) == held(place.shard("fresh", kept=None))


def test_only_published_shards_are_kept_and_without_a_second_copy(place):
    place.shard()
    for file in sorted((place.root / "train/class_0").iterdir())[:10]:
        file.unlink()
    index = place.shard()
    here = {path.stat().st_ino for path in (index.directory / "tars").glob("*.tar")}
    assert {path.stat().st_ino for path in (place.folder / "kept").glob("*.tar")} == here
    assert all(path.stat().st_nlink == 2 for path in (place.folder / "kept").glob("*.tar"))


def test_without_hard_links_nothing_is_kept_and_the_log_says_so(place, encoded, picture, monkeypatch):
    def link(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr("mae.data.shards.shard_reuse.os.link", link)
    place.shard()
    assert any("cannot reuse these shards" in line and "link" in line for line in place.said)
    assert list((place.folder / "kept").iterdir()) == []
    add(place.root, encoded, picture)
    assert place.shard().about == place.shard("fresh", kept=None).about


@pytest.mark.parametrize("where", ["keep", "_publish_split", "_conclude"])
def test_a_second_batch_that_breaks_off_goes_on_to_the_same_shards(
    place, encoded, picture, monkeypatch, where
):
    place.shard()
    for name in ("out", "out.work", "kept"):
        shutil.copytree(place.folder / name, place.folder / f"unbroken.{name}")
    add(place.root, encoded, picture)
    (place.root / "val/class_1/val 1 2.JPEG").unlink()

    def killed(*arguments):
        if where == "keep":
            real(*arguments)
        raise KeyboardInterrupt

    real = getattr(__import__("mae.data.shards.publish", fromlist=[where]), where)
    monkeypatch.setattr(f"mae.data.shards.publish.{where}", killed)
    with pytest.raises(KeyboardInterrupt):
        place.shard()
    monkeypatch.undo()
    shutil.rmtree(place.folder / "out/tars")  # as DVC does before a stage runs again
    assert place.shard().about == place.shard("unbroken.out", kept="unbroken.kept").about


def test_an_image_that_cannot_be_read_stays_named_and_a_shard_of_nothing_else_is_not_kept(
    place, encoded, picture
):
    for number in range(4):
        (place.root / f"train/class_1/bad{number}.jpg").write_bytes(b"bad")
    place.shard(max_count=2, max_rejected=4)
    add(place.root, encoded, picture, 2)
    index = place.shard(max_count=2, max_rejected=4)
    assert index.about["rejected"]["count"] == 4
    assert held(index) == held(place.shard("fresh", kept=None, max_count=2, max_rejected=4))
    assert index.about["fingerprint"] == Index.open(place.folder / "fresh").about["fingerprint"]


def test_every_image_of_both_batches_is_seen_once_an_epoch(place, encoded, picture):
    place.shard()
    add(place.root, encoded, picture, 9)
    split = place.shard().split("train")
    assert len({np.count_nonzero(split.shard_of == shard) for shard in range(len(split.shards))}) > 1
    plan = EpochOrder(split.shard_of, seed=0, shuffle_window=2)
    for epoch in range(3):
        seen = [split.meta(row)["path"] for row in plan.order(epoch)]
        assert len(seen) == len(set(seen)) == 50
        assert sum("new" in path for path in seen) == 9


def test_sets_with_label_maps_keep_their_shards_and_drop_those_with_another_map(tmp_path, encoded, picture):
    from PIL import Image

    root = tmp_path / "maps"
    for kind in ("images", "labels"):
        for split in ("train", "val"):
            (root / kind / split).mkdir(parents=True)
    (root / "classes.txt").write_text("sky\nroad\n")

    def put(split: str, number: int, value: int) -> None:
        (root / f"images/{split}/{number}.jpg").write_bytes(encoded(picture(number)))
        map_ = Image.fromarray(np.full((32, 40), value, dtype=np.uint8))
        map_.save(root / f"labels/{split}/{number}.png")

    for number in range(12):
        put("train" if number < 8 else "val", number, number % 2)
    place = Place(tmp_path, root, "label_maps")
    place.shard(max_count=4)
    put("train", 20, 1)
    place.shard(max_count=4)
    assert "reuse 3 shards (12 images), write 1 new" in place.said
    put("train", 3, 0)
    os.utime(root / "labels/train/3.png", ns=(5, 5))
    after = place.shard(max_count=4)
    assert place.written() == 1
    assert held(after) == held(place.shard("fresh", kept=None, max_count=4))


_STAGE = """
import sys
from mae.data.shards.write_shards import write_shards
write_shards("listing", "out", "work/partial", reuse_dir="work/kept", max_count=7, log=print)
"""
_GRAPH = """
stages:
  shard:
    cmd: {python} stage.py
    deps: [listing/manifest.json]
    outs: [out/tars, out/index.json: {{cache: false}}, out/rejected.json: {{cache: false}}]
"""


@pytest.mark.parametrize("links", ["hardlink", pytest.param("symlink", marks=pytest.mark.slow)])
def test_dvc_takes_the_shards_into_its_cache_and_the_kept_ones_stay_good(
    place, encoded, picture, project, links
):
    folder = place.folder
    (folder / "stage.py").write_text(_STAGE)
    (folder / "dvc.yaml").write_text(_GRAPH.format(python=sys.executable))
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(project)}

    def dvc(*arguments: str) -> str:
        command = [sys.executable, "-m", "dvc", *arguments]
        ran = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
        return ran.stdout

    dvc("init", "--no-scm")
    with (folder / ".dvc/config").open("a") as config:
        config.write(f"[cache]\n    type = {links}\n")
    write_listing(open_source("folder", place.root), folder / "listing")
    dvc("repro")
    before = Index.open(folder / "out")
    add(place.root, encoded, picture)
    write_listing(open_source("folder", place.root), folder / "listing")
    assert "reuse 8 shards (50 images), write 2 new" in dvc("repro")
    after = Index.open(folder / "out")
    assert tars(before).items() <= tars(after).items()
    after.verify()
    if links == "hardlink":  # what this project asks for: the bytes are on the disk once
        cached = {path.stat().st_ino for path in (folder / ".dvc/cache").rglob("*") if path.is_file()}
        assert {path.stat().st_ino for path in (folder / "work/kept").glob("*.tar")} <= cached
    assert "up to date" in dvc("status")
    flip(folder / "out/tars/train-000001.tar")
    print(dvc("repro"))
    subprocess.run([sys.executable, "stage.py"], cwd=folder, env=environment, check=True)
    assert Index.open(folder / "out").about == after.about
    assert "up to date" in dvc("status")
    shutil.rmtree(folder / "out/tars")
    dvc("checkout")
    Index.open(folder / "out").verify()


def bytes_of(index: Index) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(index.directory.rglob("*")) if path.is_file()}


def flip(path: Path, *, same_time: bool = False) -> None:
    status, data = path.stat(), bytearray(path.read_bytes())
    data[700 % len(data)] ^= 1
    with path.open("r+b") as file:  # in place: the kept shard is another name of the same file
        file.write(data)
    if same_time:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


SETS = ("images", "objects", "label maps")
DAMAGES = (
    "flipped",
    "flipped, index gone",
    "gone",
    "gone here and kept",
    "cut",
    "silent",
    "no index",
    "table",
)


@pytest.fixture(scope="module")
def two_batches(tmp_path_factory):
    """A function: the place of a set that was sharded twice, the second time with new images."""
    made: dict[str, Place] = {}

    def make(kind: str) -> Place:
        if kind not in made:
            made[kind] = _two_batches(tmp_path_factory.mktemp("two"), kind)
        return made[kind]

    return make


def _two_batches(folder: Path, kind: str) -> Place:
    from data.conftest import encoded, image_tree, picture
    from PIL import Image

    root = folder / "images"
    if kind == "images":
        image_tree(root)
        place = Place(folder, root)
        place.shard()
        add(root, encoded, picture)
    else:
        for number in range(16):
            name, split = f"{number:012d}.jpg", "train" if number < 12 else "val"
            if kind == "label maps":
                for part in ("images", "labels"):
                    (root / part / split).mkdir(parents=True, exist_ok=True)
                (root / "classes.txt").write_text("sky\nroad\n")
                map_ = Image.fromarray(np.full((32, 40), number % 2, dtype=np.uint8))
                map_.save(root / f"labels/{split}/{number:012d}.png")
                (root / f"images/{split}/{name}").write_bytes(encoded(picture(number)))
            else:
                (root / f"{split}2017").mkdir(parents=True, exist_ok=True)
                (root / f"{split}2017/{name}").write_bytes(encoded(picture(number)))
                _annotate(root, split)
        place = Place(folder, root, "coco" if kind == "objects" else "label_maps")
        place.shard()
        file = root / ("train2017/000000000099.jpg" if kind == "objects" else "images/train/99.jpg")
        file.write_bytes(encoded(picture(99)))
        if kind == "objects":
            _annotate(root, "train")
        else:
            Image.fromarray(np.zeros((32, 40), dtype=np.uint8)).save(root / "labels/train/99.png")
    place.shard()
    return place


def _annotate(root: Path, split: str) -> None:
    """Write COCO's json of a split: one box in each image."""
    names = sorted(path.name for path in (root / f"{split}2017").iterdir())
    images = [{"id": int(name[:12]), "file_name": name, "width": 40, "height": 32} for name in names]
    box = {"category_id": 1, "bbox": [4, 4, 10, 10], "area": 100, "iscrowd": 0}
    box["segmentation"] = [[4, 4, 14, 4, 14, 14, 4, 14]]
    about = {
        "images": images,
        "annotations": [{"id": n + 1, "image_id": one["id"], **box} for n, one in enumerate(images)],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(about))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", SETS)
def test_a_damaged_or_missing_shard_is_written_again_in_its_place(two_batches, tmp_path, kind, damage):
    place = two_batches(kind)
    before = bytes_of(Index.open(place.folder / "out"))
    tar = place.folder / "out/tars/train-000000.tar"
    if damage == "table":
        flip(tar.with_name("train.samples.npy"))
    elif damage.startswith("flipped") or damage == "silent":
        flip(tar, same_time=damage == "silent")
    elif damage == "cut":
        os.truncate(tar, 600)
    elif damage.startswith("gone"):
        for path in (place.folder / "kept").glob("*.tar"):
            if damage == "gone here and kept" and path.samefile(tar):
                path.unlink()
                break
        tar.unlink()
    if damage in ("flipped, index gone", "no index"):
        (place.folder / "out/index.json").unlink()
    after = place.shard()
    assert bytes_of(after) == before
    rewritten = damage not in ("gone", "no index", "table")
    assert place.written() == rewritten
    after.verify()
    place.shard()
    assert "nothing to do" in place.said[0]


@pytest.mark.parametrize("how", ["killed before the repair", "with new images"])
def test_damage_is_repaired_in_a_linked_cache_although(place, encoded, picture, monkeypatch, how):
    place.shard()
    tar, cached = place.folder / "out/tars/train-000000.tar", place.folder / "cached.tar"
    before = tar.read_bytes()
    os.link(tar, cached)
    flip(tar)
    if how == "with new images":
        add(place.root, encoded, picture)
    else:
        with monkeypatch.context() as patch:
            patch.setattr("mae.data.shards.write_shards.repair_linked", _killed)
            with pytest.raises(KeyboardInterrupt):
                place.shard()
    place.shard().verify()
    assert cached.read_bytes() == before


def _killed(*arguments):
    raise KeyboardInterrupt


def test_a_file_that_did_not_change_since_it_was_compared_is_not_read_again(place, monkeypatch):
    stamps = place.folder / "verified.json"
    place.shard(stamps=stamps)
    place.shard(stamps=stamps)
    monkeypatch.setattr("mae.data.shards.index.sha256_of", lambda path: pytest.fail(f"{path} was read"))
    place.shard(stamps=stamps)
    assert "nothing to do" in place.said[0]


def test_a_kept_record_with_another_number_is_noticed_and_said(place, encoded, picture):
    place.shard()
    record = next((place.folder / "kept").glob("????????????????????????????????.json"))
    record.write_text(record.read_text().replace('"samples": [[512', '"samples": [[513'))
    add(place.root, encoded, picture)
    after = place.shard()
    assert any("records of 1 kept shards are damaged" in line for line in place.said)
    assert held(after) == held(place.shard("fresh", kept=None))
