import io
import tarfile

import numpy as np
import pytest

from mae.data.listing.listing_file import Listing
from mae.data.listing.manifest import open_source, write_listing
from mae.data.sources.base import SourceError
from mae.data.sources.imagenet_tars import DEVKIT, TRAIN, VAL

# Alphabetical order of wnids and the devkit's numbering differ, as in the original.
WNIDS = {1: "n02119789", 2: "n01440764", 3: "n03888257"}
TRUTH = [3, 1, 2, 2, 1]


def tarred(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(params=["folder", "tar.gz"])
def official(tmp_path, picture, encoded, request):
    from scipy.io import savemat

    root = tmp_path / "ilsvrc"
    devkit = root / DEVKIT / "data"
    devkit.mkdir(parents=True)
    rows = [(number, wnid, f"words {wnid}", 0) for number, wnid in WNIDS.items()] + [
        (1001, "n00001740", "entity", 3)
    ]
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    savemat(devkit / "meta.mat", {"synsets": np.array(rows, dtype=kinds)})
    (devkit / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{one}\n" for one in TRUTH))
    if request.param == "tar.gz":
        with tarfile.open(root / f"{DEVKIT}.tar.gz", "w:gz") as tar:
            tar.add(root / DEVKIT, DEVKIT)
        for file in [*devkit.iterdir(), devkit, devkit.parent]:
            file.rmdir() if file.is_dir() else file.unlink()
    images = {
        wnid: {f"{wnid}_{one}.JPEG": encoded(picture(10 * number + one)) for one in range(4)}
        for number, wnid in WNIDS.items()
    }
    val = {f"ILSVRC2012_val_{one:08d}.JPEG": encoded(picture(100 + one)) for one in range(1, len(TRUTH) + 1)}
    (root / TRAIN).write_bytes(tarred({f"{wnid}.tar": tarred(files) for wnid, files in images.items()}))
    (root / VAL).write_bytes(tarred(val))
    every = {f"{wnid}/{name}": data for wnid, files in images.items() for name, data in files.items()}
    return root, every | val


def test_the_official_tars_are_listed_by_offset_with_the_devkit_s_ground_truth(tmp_path, official):
    root, images = official
    manifest = write_listing(open_source("imagenet_tar", root), tmp_path / "listing")
    assert manifest["classes"] == sorted(WNIDS.values())
    assert manifest["class_info"]["n01440764"] == {"ilsvrc2012_id": 2, "words": "words n01440764"}
    listing = Listing(tmp_path / "listing")
    found = {}
    for entry in listing:
        with (root / entry.container).open("rb") as file:
            file.seek(entry.offset)
            found[entry.path] = file.read(entry.size)
    assert found == images
    val = [entry.class_name for entry in listing if entry.split == "val"]
    assert val == [WNIDS[number] for number in TRUTH]


def test_sharding_the_official_tars_copies_the_inner_bytes(official, sharded):
    root, images = official
    index = sharded(root, "imagenet_tar")
    for name, count in (("train", 12), ("val", 5)):
        split = index.split(name)
        assert len(split) == count
        for row in range(count):
            about = split.meta(row)
            assert split.read(row) == images[about["path"]]
            assert index.classes[split.labels[row]] == about["class"]
            if name == "train":
                assert about["path"].startswith(about["class"])


def test_unchanged_tars_are_not_walked_again(tmp_path, official, monkeypatch):
    root, _ = official
    first = write_listing(open_source("imagenet_tar", root), tmp_path / "listing")
    monkeypatch.setattr(
        "mae.data.sources.imagenet_tars.ImageNetTarSource.entries", lambda self: pytest.fail("walked")
    )
    assert write_listing(open_source("imagenet_tar", root), tmp_path / "listing") == first


@pytest.mark.parametrize("tar", [TRAIN, VAL])
@pytest.mark.parametrize("keep", [0.1, 0.3, 0.55, 0.8, 1.0])
def test_a_tar_cut_short_is_an_error_that_names_it(tmp_path, official, tar, keep):
    root, _ = official
    data = (root / tar).read_bytes()
    (root / tar).write_bytes(data[: int(len(data.rstrip(b"\0")) * keep) // 512 * 512])
    with pytest.raises(SourceError, match=tar):
        write_listing(open_source("imagenet_tar", root), tmp_path / "listing")


def test_missing_parts_are_named(tmp_path, official):
    root, _ = official
    (root / VAL).rename(root / "other.tar")
    with pytest.raises(SourceError, match=VAL):
        write_listing(open_source("imagenet_tar", root), tmp_path / "listing")


def test_a_val_image_without_ground_truth_is_named(tmp_path, official):
    root, images = official
    (root / VAL).write_bytes(tarred({"ILSVRC2012_val_00000006.JPEG": images["ILSVRC2012_val_00000001.JPEG"]}))
    with pytest.raises(SourceError, match="00000006"):
        write_listing(open_source("imagenet_tar", root), tmp_path / "listing")
