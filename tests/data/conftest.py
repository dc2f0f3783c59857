"""Small images and source trees, made here with PIL."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mae.data.listing.manifest import open_source, write_listing
from mae.data.shards.index import Index
from mae.data.shards.write_shards import write_shards


def picture(seed: int, width: int = 40, height: int = 32) -> Image.Image:
    """A smooth RGB picture, another for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def image_tree(root: Path, train: tuple[int, ...] = (20, 13, 8), val: tuple[int, ...] = (3, 4, 2)) -> Path:
    """Class folders class_0, class_1 ...; the counts are per class. One image has PNG content."""
    for split, counts in (("train", train), ("val", val)):
        for label, count in enumerate(counts):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                seed = number + 100 * label + (10_000 if split == "val" else 0)
                format = "PNG" if number == 1 else "JPEG"
                (folder / f"{split} {label} {number}.JPEG").write_bytes(encoded(picture(seed), format))
    return root


@pytest.fixture(name="picture")
def _picture() -> Callable[..., Image.Image]:
    return picture


@pytest.fixture(name="encoded")
def _encoded() -> Callable[..., bytes]:
    return encoded


@pytest.fixture(name="image_tree")
def _image_tree() -> Callable[..., Path]:
    return image_tree


@pytest.fixture
def sharded(tmp_path: Path) -> Callable[..., Index]:
    """Lists a source (with its options `source`) and shards it below tmp_path; others go to write_shards."""

    def make(root: Path, kind: str = "folder", name: str = "out", val_fraction: float = 0.0, **options: Any):
        source = open_source(kind, root, val_fraction, **options.pop("source", {}))
        write_listing(source, tmp_path / f"{name}.listing")
        options = {"max_count": 7, **options}
        write_shards(tmp_path / f"{name}.listing", tmp_path / name, tmp_path / f"{name}.work", **options)
        return Index.open(tmp_path / name)

    return make


@pytest.fixture(scope="session")
def small_index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """41 training and 9 validation images of 3 classes, in 6 and 2 shards. Not to be changed."""
    place = tmp_path_factory.mktemp("small")
    image_tree(place / "images")
    write_listing(open_source("folder", place / "images"), place / "listing")
    write_shards(place / "listing", place / "shards", place / "work", max_count=7)
    return Index.open(place / "shards")
