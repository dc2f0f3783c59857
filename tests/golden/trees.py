"""Small sets of images in the layouts that sources read, the same bytes on every machine."""

import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TIME = 1_262_304_000  # of every file: listings hold times
POLYGON = [4, 4, 20, 4, 20, 15.5]


def png(pixels: np.ndarray, *, four_bits: bool = False) -> bytes:
    """A PNG of uint8 (H, W) or (H, W, 3), not compressed: a library of another version gives other bytes.

    four_bits: each value is two grey pixels, side by side.
    """
    height, width = pixels.shape[0], pixels.shape[1] * (1 + four_bits)
    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels))
    stored = [rows[at : at + 65535] for at in range(0, len(rows), 65535)]
    blocks = b"".join(
        struct.pack("<BHH", at == len(stored) - 1, len(part), 65535 - len(part)) + part
        for at, part in enumerate(stored)
    )
    data = b"\x78\x01" + blocks + struct.pack(">I", zlib.adler32(rows))
    header = struct.pack(
        ">IIBBBBB", width, height, 4 if four_bits else 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0
    )
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def pixels(seed: int, height: int = 32, width: int = 40) -> np.ndarray:
    """Coloured blocks on a slope, another picture for each seed: uint8 (H, W, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 200, (4, 5, 3))
    rows, columns = (np.arange(side) * cells // side for side, cells in ((height, 4), (width, 5)))
    slope = (np.arange(height)[:, None] + np.arange(width)) * 55 // (height + width)
    return (coarse[rows][:, columns] + slope[..., None]).astype(np.uint8)


def write(path: Path, data: bytes | str | Mapping[str, Any]) -> None:
    """A file of bytes, text or JSON, of a fixed time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(data, Mapping):
        data = json.dumps(data)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    os.utime(path, (TIME, TIME))


def folder(root: Path) -> None:
    """Class folders for train and val; one file is no image, one cannot be read as an image."""
    for split, counts in (("train", (9, 6, 5)), ("val", (3, 2, 2))):
        for label, count in enumerate(counts):
            for number in range(count):
                seed = 100 * label + number + (1000 if split == "val" else 0)
                size = (32, 40) if number % 2 else (50, 36)
                write(root / split / f"class_{label}" / f"{split} {number}.png", png(pixels(seed, *size)))
    write(root / "train/class_1/notes.txt", "no image")
    write(root / "train/class_1/broken.png", png(pixels(1))[:-40])


def annotated_val(root: Path) -> None:
    """Class folders for train; for val one folder with a list, as Tiny ImageNet's."""
    folder(root)
    lines = []
    for label in range(3):
        for place in sorted((root / f"val/class_{label}").iterdir()):
            write(root / f"val/images/{label}_{place.name}", place.read_bytes())
            lines.append(f"{label}_{place.name}\tclass_{label}\t0\t0\n")
            place.unlink()
        (root / f"val/class_{label}").rmdir()
    write(root / "val/val_annotations.txt", "".join(lines))


def flat(root: Path) -> None:
    """Images without labels, at any depth."""
    for number in range(12):
        write(root / f"{'deep/' * (number % 3)}{number}.png", png(pixels(number)))


def imagenet_tars(root: Path) -> None:
    """The official tars and devkit; the devkit's numbers are not in the order of wnids."""
    from scipy.io import savemat

    wnids = {1: "n02119789", 2: "n01440764", 3: "n03888257"}
    rows = [(number, wnid, f"words {wnid}", 0) for number, wnid in wnids.items()]
    rows.append((1001, "n00001740", "entity", 3))
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=kinds)})
    devkit = root / "ILSVRC2012_devkit_t12/data"
    write(devkit / "meta.mat", meta.getvalue())
    write(devkit / "ILSVRC2012_validation_ground_truth.txt", "3\n1\n2\n2\n1\n")
    inner = {
        f"{wnid}.tar": _tar({f"{wnid}_{at}.JPEG": png(pixels(10 * number + at)) for at in range(4)})
        for number, wnid in wnids.items()
    }
    write(root / "ILSVRC2012_img_train.tar", _tar(inner))
    val = {f"ILSVRC2012_val_{at:08d}.JPEG": png(pixels(100 + at)) for at in range(1, 6)}
    write(root / "ILSVRC2012_img_val.tar", _tar(val))


def _tar(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def inaturalist(root: Path, year: int) -> None:
    """A json for each split, the images where it says."""
    names = ((0, "Zygiella atrica"), (1, "Anax junius"), (12, "Bufo bufo"))
    categories = [{"id": number, "name": name, "supercategory": name[:3]} for number, name in names]
    members = {
        "train": [
            ("Insecta/1/b.jpg", 1),
            ("Insecta/1/a.jpg", 1),
            ("Amphibia/12/c.jpg", 12),
            ("A/0/d.jpg", 0),
        ],
        "val": [("Insecta/1/v.jpg", 1), ("A/0/u.jpg", 0)],
    }
    for split, images in members.items():
        about: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
        for number, (name, category) in enumerate(images, 1):
            path = f"train_val{year}/{name}"
            write(root / path, png(pixels(number)))
            about["images"].append({"id": number, "file_name": path, "width": 40, "height": 32})
            about["annotations"].append({"id": number, "image_id": number, "category_id": category})
        write(root / f"{split}{year}.json", about)


def places365(root: Path) -> None:
    """The standard lists, their table of categories, small images."""
    train = (("f/field/wild", "2", 149), ("a/airfield", "1", 0), ("a/airfield", "3", 0))
    for scene, name, number in train:
        write(root / f"data_256_standard/{scene}/{name}.jpg", png(pixels(number)))
    for name in ("v2", "v1"):
        write(root / f"val_256/{name}.jpg", png(pixels(int(name[1]))))
    lines = (f"/{scene}/{name}.jpg {number}\n" for scene, name, number in train)
    write(root / "places365_train_standard.txt", "".join(lines))
    write(root / "places365_val.txt", "v2.jpg 0\nv1.jpg 149\n")
    write(root / "categories_places365.txt", "/a/airfield 0\n/a/airplane_cabin 1\n/f/field/wild 149\n")


def places205(root: Path) -> None:
    """The lists without a table of categories: scenes come from folders."""
    for scene, name in (("a/abbey", "gsun_1"), ("f/field/wild", "gsun_2"), ("a/abbey", "gsun_3")):
        write(root / f"images256/{scene}/{name}.jpg", png(pixels(int(name[-1]))))
    write(root / "train_places205.csv", "f/field/wild/gsun_2.jpg 71\na/abbey/gsun_1.jpg 0\n")
    write(root / "val_places205.csv", "a/abbey/gsun_3.jpg 0\n")


def annotations() -> list[dict[str, Any]]:
    """Sound ones of every form, then unsound ones."""
    sound = {"bbox": [4, 4, 16, 11.5], "segmentation": [POLYGON], "area": 92.0, "iscrowd": 0}
    crowd = {"size": [32, 40], "counts": [0, 40, 1240]}
    given: list[dict[str, Any]] = [
        {"image_id": 2},
        {"image_id": 2, "category_id": 1, "segmentation": crowd, "bbox": [0, 0, 2, 32], "iscrowd": 1},
        {"image_id": 1, "area": 0},  # counted again
        {"image_id": 1, "segmentation": None, "bbox": [3.5, 2, 10, 9.25]},  # a box alone
        {"image_id": 1, "bbox": [-0.5, 4, 20.75, 11.5]},  # a little outside
        {"image_id": 3, "segmentation": {"size": [32, 40], "counts": "h0?Q9"}, "bbox": [0, 24, 1, 8]},
        {"image_id": 3, "bbox": [30, 4, 16, 11.5]},  # outside
        {"image_id": 3, "bbox": [24, 20, 10, 10]},  # not where its mask is
        {"image_id": 3, "segmentation": [[1, 1, 5, 5, 9, 9]]},  # on a line
        {"image_id": 2, "bbox": [4, 4, 0, 8]},  # no area
    ]
    return [{"id": number, "category_id": 3, **sound, **one} for number, one in enumerate(given, 7)]


def coco(root: Path) -> None:
    """The official layout, with sound and unsound annotations in train."""
    for split in ("train", "val"):
        images = []
        for number in (3, 1, 2, 4):
            name = f"{number:012d}.jpg"
            write(root / f"{split}2017/{name}", png(pixels(number)))
            stated = 41 if (split, number) == ("train", 4) else 40
            images.append({"id": number, "file_name": name, "width": stated, "height": 32})
        about = {
            "images": images,
            "annotations": annotations() if split == "train" else annotations()[:3],
            "categories": [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}],
        }
        write(root / f"annotations/instances_{split}2017.json", about)


def label_map(seed: int, values: tuple[int, ...], height: int = 32, width: int = 40) -> bytes:
    """Blocks of these values."""
    coarse = np.random.default_rng(seed).choice(values, (4, 5)).astype(np.uint8)
    return png(coarse[np.arange(height) * 4 // height][:, np.arange(width) * 5 // width])


def label_maps(root: Path) -> None:
    """People's own data; a map of another size and one with an unknown value."""
    for number, name in enumerate(("train/a", "train/deep/b", "train/c", "train/e", "val/d", "val/f")):
        write(root / f"images/{name}.jpg", png(pixels(number)))
        write(root / f"labels/{name}.png", label_map(number, (0, 1, 255)))
    write(root / "labels/train/c.png", label_map(3, (0, 1), 30))
    write(root / "labels/train/e.png", label_map(4, (0, 1, 7)))
    write(root / "classes.txt", "background\nroad\n\n")


def ade20k(root: Path) -> None:
    """The official layout, three classes."""
    for kind, count in (("training", 3), ("validation", 2)):
        for number in range(count):
            write(root / f"images/{kind}/{kind}_{number}.jpg", png(pixels(number)))
            write(root / f"annotations/{kind}/{kind}_{number}.png", label_map(number, (0, 1, 2, 3)))
    lines = [f"{at}\t0.1\t10\t2\t{name}" for at, name in enumerate(("wall", "sky", "tree"), 1)]
    write(root / "objectInfo150.txt", "\n".join(["Idx\tRatio\tTrain\tVal\tName", *lines]) + "\n")


def camvid(root: Path) -> None:
    """SegNet's layout; 11 is void."""
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            write(root / f"{split}/{number}.png", png(pixels(number)))
            write(root / f"{split}annot/{number}.png", label_map(number, (0, 4, 10, 11)))
