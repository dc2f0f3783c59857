import gc
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae.data.decode import DIM, TRANSPARENT, pixels
from mae.data.listing.manifest import open_source, write_listing
from mae.data.shards.index import Index
from mae.data.shards.tar_writer import header
from mae.data.shards.write_shards import write_shards


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


def test_shards_are_class_mixed(small_index):
    split = small_index.split("train")
    for number in range(len(split.shards)):
        assert len(set(split.labels[split.shard_of == number])) > 1


def damage(root: Path, encoded, picture) -> dict[str, str]:
    """Bad files of many kinds, with the reason that must be given for each."""
    folder = root / "train/class_0"
    whole = encoded(picture(1, 200, 160))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_bytes(b"hello")
    (folder / "print.tif").write_bytes(b"8BPS" + bytes(40))
    (folder / "broken.jpg").symlink_to("nowhere")
    reasons = {"empty.jpg": "zero bytes", "cut.jpg": "truncated", "text.png": "not an image"}
    return reasons | {"print.tif": "convert it", "broken.jpg": "link"}


def test_bad_images_are_left_out_and_reported_by_name(tmp_path, image_tree, encoded, picture):
    root = image_tree(tmp_path / "images")
    reasons = damage(root, encoded, picture)
    index = shard(tmp_path, root, max_rejected=5)
    rejected = json.loads((tmp_path / "out/rejected.json").read_bytes())["rejected"]
    assert {Path(one["path"]).name for one in rejected} == set(reasons)
    assert all(reasons[Path(one["path"]).name] in one["reason"] for one in rejected)
    assert index["splits"]["train"]["count"] == 41
    assert index["rejected"]["count"] == 5


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


def test_images_that_may_mean_something_else_are_said_with_their_number(tmp_path, encoded, picture, sharded):
    folder = tmp_path / "set/train/a"
    folder.mkdir(parents=True)
    for number in range(3):
        scan = np.full((8, 8), 1000 + number, dtype=np.uint16)
        format = "TIFF" if number else "PNG"  # each by its content
        (folder / f"scan{number}.png").write_bytes(encoded(Image.fromarray(scan), format))
    glass = picture(3).convert("RGBA")
    glass.putalpha(128)
    (folder / "glass.png").write_bytes(encoded(glass, "PNG"))
    said = []
    index = sharded(tmp_path / "set", log=said.append)
    scans = ", ".join(f"train/a/scan{number}.png" for number in range(3))
    assert f"{tmp_path / 'out'}: 3 of 4 images have {DIM} ({scans})" in said
    assert f"{tmp_path / 'out'}: 1 of 4 images have {TRANSPARENT} (train/a/glass.png)" in said
    assert index.about["rejected"]["count"] == 0


def test_images_of_twelve_bits_in_sixteen_are_stored_in_eight_where_the_setting_says_so(
    tmp_path, encoded, picture, sharded
):
    folder = tmp_path / "set/train/a"
    folder.mkdir(parents=True)
    scan = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    (folder / "scan.png").write_bytes(encoded(Image.fromarray(scan), "PNG"))
    (folder / "scan.tif").write_bytes(encoded(Image.fromarray(scan), "TIFF"))
    (folder / "photo.jpg").write_bytes(encoded(picture(0)))
    said = []
    split = sharded(tmp_path / "set", bits=12, log=said.append).split("train")
    stored = {split.meta(row)["path"]: split.read(row) for row in range(len(split))}
    assert stored["train/a/photo.jpg"] == (folder / "photo.jpg").read_bytes()
    assert pixels(stored["train/a/scan.png"]).max() == pixels(stored["train/a/scan.tif"]).max() == 255
    assert not any("images have" in line for line in said)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_a_picture_in_the_alpha_channel_alone_is_stored_as_it_is_drawn(tmp_path, encoded, sharded, form):
    folder = tmp_path / "set/train/a"
    folder.mkdir(parents=True)
    alpha = np.zeros((12, 12), np.uint8)
    alpha[3:9, 3:9] = 255
    logo = Image.fromarray(np.dstack([np.zeros((12, 12, 3), np.uint8), alpha]))
    (folder / "logo.png").write_bytes(encoded(logo, form, lossless=True))
    split = sharded(tmp_path / "set").split("train")
    image = Image.open(io.BytesIO(split.read(0)))
    assert (image.format, image.mode) == ("PNG", "RGB")
    assert (np.asarray(image)[:, :, 0] == 255 - alpha).all()


def test_tiff_bmp_and_gif_become_png_and_it_is_said_once(tmp_path, image_tree, encoded, picture):
    root = image_tree(tmp_path / "images")
    folder = root / "train/class_0"
    colours = picture(3).quantize(64).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "a.tif": encoded(colours, "TIFF"),
        "b.bmp": encoded(colours, "BMP"),
        "c.gif": encoded(colours, "GIF"),
    }
    files |= {"turned.tiff": encoded(colours, "TIFF", exif=exif), "called.jpg": encoded(colours, "BMP")}
    files["pages.tif"] = encoded(colours, "TIFF", save_all=True, append_images=[picture(4)])
    for name, data in files.items():
        (folder / name).write_bytes(data)
    said: list[str] = []
    index = shard(tmp_path, root, log=said.append)
    assert index["rejected"]["count"] == index["resized"]["count"] == 0
    split, found = Index.open(tmp_path / "out").split("train"), {}
    for row in range(len(split)):
        about = split.meta(row)
        if Path(about["path"]).name in files:
            image = Image.open(io.BytesIO(split.read(row)))
            assert (image.format, image.mode) == ("PNG", "RGB")
            assert image.size == (about["width"], about["height"])
            found[Path(about["path"]).name] = np.asarray(image)
    assert found.keys() == files.keys()
    for name in ("a.tif", "b.bmp", "called.jpg", "pages.tif"):
        assert (found[name] == np.asarray(colours)).all()
    assert (found["turned.tiff"] == np.rot90(np.asarray(colours), -1)).all()
    assert [line for line in said if "written as PNG" in line] == [
        f"{tmp_path / 'out'}: written as PNG, which every reader of shards takes: 3 TIFF, 2 BMP, 1 GIF"
    ]
    rejected = json.loads((tmp_path / "out/rejected.json").read_bytes())
    assert [one["complaint"] for one in rejected["complaints"]] == [
        "holds 2 frames or pages; the first one is taken"
    ]


def test_the_preview_in_a_cameras_raw_file_is_not_taken_for_the_image(tmp_path, image_tree, encoded, picture):
    root = image_tree(tmp_path / "images")
    preview = encoded(picture(1), "TIFF", tiffinfo={254: 1})
    (root / "train/class_0/photo.nef").write_bytes(preview)
    shard(tmp_path, root, max_rejected=1)
    (rejected,) = json.loads((tmp_path / "out/rejected.json").read_bytes())["rejected"]
    assert "camera's raw file" in rejected["reason"]


def test_a_person_reads_sizes_colours_and_reasons(tmp_path, image_tree, encoded, picture):
    root = image_tree(tmp_path / "images")
    (root / "train/class_0/large.png").write_bytes(encoded(picture(3, 2000, 1000).convert("L"), "PNG"))
    for number in range(4):
        (root / f"train/class_0/cut{number}.jpg").write_bytes(b"")
    said: list[str] = []
    shard(tmp_path, root, max_rejected=9, log=said.append)
    out = tmp_path / "out"
    assert f"{out}: megapixels: least 0.0013, median 0.0013, most 2; colours: 50 RGB, 1 grey" in said
    few = ", ".join(f"train/class_0/cut{number}.jpg" for number in range(3))
    assert f"{out}: left out, zero bytes: 4 ({few}, ...)" in said
    summary = json.loads((out / "summary.json").read_bytes())
    assert summary["megapixels"] == {"least": 0.00128, "median": 0.00128, "most": 2.0}
    assert summary["images"] == summary["measured"] == 51


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
