"""The demo's scenes: handwritten digits composed on crops of photographs, with exact masks and boxes.

scikit-learn contains 1,797 handwritten digits (UCI, 8 x 8 grey levels) and two photographs. A scene is a
darkened crop of a photograph with several digits on it, each another sample, turned, stretched and tinted;
they have the class of the scene, or any class (`Look.mixed`). Training and validation share neither a
handwritten digit nor a region of a photograph. The digits are in the order of their collection, so that
validation digits come mostly from other writers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = ("train", "val")
_DIGITS = {"train": (0, 1400), "val": (1400, 1797)}  # rows of load_digits
_COLUMNS = {"train": (0.0, 0.72), "val": (0.72, 1.0)}  # part of a photograph's width
_GLYPH = 8  # px
_PAD = 3  # empty rows and columns around a glyph, so that smooth enlarging fades out inside
_SEEN = 0.5  # ink from which on a pixel belongs to the digit
_UNSURE = (0.35, 0.65)  # ink between digit and background, ambiguous to a person


@dataclass(frozen=True)
class Look:
    """The appearance of scenes. Pairs are bounds of uniform draws; a cell is the scene's side over `rows`."""

    rows: int = 2  # the digits stand in rows x rows cells
    missing: float = 0.0  # chance of a cell to stay empty; one digit remains, unless the scene is empty
    empty: float = 0.0  # chance of a scene to show no digit at all
    mixed: bool = False  # each digit draws its own class
    height: tuple[float, float] = (0.85, 1.1)  # of a digit, in cells
    shift: float = 0.12  # either way from the cell's middle, in cells
    turn: float = 15.0  # degrees either way
    stretch: tuple[float, float] = (0.85, 1.15)  # width over height
    ink: tuple[float, float] = (0.8, 1.0)  # of full intensity, per digit and colour channel
    light: tuple[float, float] = (0.1, 0.4)  # factor on the photograph's brightness
    crop: tuple[float, float] = (1.0, 4.0)  # side of the photograph's crop over the scene's


@dataclass(frozen=True)
class Digit:
    """One digit of a scene: its class 0-9, its visible mask and the tight box of that.

    mask: (size, size) bool, disjoint from those of other digits (a later one covers an earlier one); box:
    (left, top, right, bottom) in whole pixels, right and bottom exclusive.
    """

    label: int
    mask: NDArray[np.bool_]
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """One picture, image (size, size, 3) uint8 RGB, with its annotations, for each layout.

    unsure: (size, size) bool, the rim of strokes: neither clearly ink nor clearly background.
    """

    split: str
    index: int
    label: int
    image: NDArray[np.uint8]
    background: str  # name of the photograph: "china" or "flower"
    digits: tuple[Digit, ...]
    unsure: NDArray[np.bool_]


def scenes(split: str, count: int, *, size: int, seed: int, look: Look | None = None) -> Iterator[Scene]:
    """Compose the first `count` scenes of "train" or "val", side `size` px, classes in turn.

    Scene k depends on (split, k, size, seed, look) alone: a larger count changes none. Raises ValueError for
    an unknown split, a size below 16 px, fewer scenes than classes, or an impossible look.
    """
    look = look or Look()
    check(split, count, size=size, seed=seed, look=look)
    return (_compose(split, index, size=size, seed=seed, look=look) for index in range(count))


def dense_look(size: int) -> Look:
    """Make a look of many digits of any class, as tall as in 28 px scenes of two rows; few scenes are
    empty."""
    return Look(rows=max(1, round(size / 14)), missing=0.4, empty=0.04, mixed=True)


def check(split: str, count: int, *, size: int, seed: int, look: Look) -> None:
    """Raise ValueError, naming the setting, where `scenes` cannot compose such scenes."""
    if split not in SPLITS:
        raise ValueError(f"demo split {split!r} is unknown: choose one of {', '.join(SPLITS)}")
    if count < len(CLASSES):
        raise ValueError(f"demo.{split} is {count}: give at least {len(CLASSES)}, one scene per class")
    if not 16 <= size <= 1024:
        raise ValueError(f"demo.size is {size}: scenes are 16 to 1024 px wide")
    if seed < 0:
        raise ValueError(f"the demo's seed is {seed}: it must not be negative")
    if not 1 <= look.rows <= size // 8:
        raise ValueError(f"demo.rows is {look.rows}: at {size} px choose 1 to {size // 8}")
    if not (0 <= look.missing <= 1 and 0 <= look.empty <= 1):
        raise ValueError(f"demo.missing {look.missing} and demo.empty {look.empty}: chances are 0 to 1")
    if not (0 <= look.shift <= 0.5 and 0 <= look.turn <= 180):
        raise ValueError("demo.shift is 0 to 0.5 cells, demo.turn 0 to 180 degrees")
    highest = {"height": 1.5, "ink": 1.0, "light": 1.0, "stretch": 2.0, "crop": math.inf}
    for key, (low, high) in ((key, getattr(look, key)) for key in highest):
        if not 0 < low <= high <= highest[key]:
            raise ValueError(f"demo.{key} is ({low}, {high}): needs 0 < low <= high <= {highest[key]}")


def _compose(split: str, index: int, *, size: int, seed: int, look: Look) -> Scene:
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    label = index % len(CLASSES)
    background, canvas = _background(split, rng, size, look)
    filled = rng.random(look.rows**2) >= look.missing
    filled[rng.integers(filled.size)] = True
    if look.empty and rng.random() < look.empty:  # no draw where it cannot change anything
        filled[:] = False
    owner = np.full((size, size), -1, dtype=np.int16)
    unsure = np.zeros((size, size), dtype=bool)
    labels: dict[int, int] = {}
    for cell in np.flatnonzero(filled).tolist():
        middle = np.array([cell % look.rows, cell // look.rows]) + 0.5
        labels[cell] = int(rng.integers(len(CLASSES))) if look.mixed else label
        ink, part = _draw(_glyph(split, labels[cell], rng), middle, rng, size, look)
        colour = (255 * rng.uniform(*look.ink, size=3)).astype(np.float32)
        canvas[part] += ink[..., None] * (colour - canvas[part])
        owner[part][ink >= _SEEN] = cell
        unsure[part] = np.where(ink < _UNSURE[0], unsure[part], ink <= _UNSURE[1])
    masks = {cell: owner == cell for cell in np.unique(owner[owner >= 0]).tolist()}
    return Scene(
        split=split,
        index=index,
        label=label,
        image=np.clip(np.rint(canvas), 0, 255).astype(np.uint8),
        background=background,
        digits=tuple(Digit(labels[cell], mask, _box(mask)) for cell, mask in masks.items()),
        unsure=unsure,
    )


def _background(
    split: str, rng: np.random.Generator, size: int, look: Look
) -> tuple[str, NDArray[np.float32]]:
    """Draw a darkened, perhaps mirrored crop of the split's part of a photo: (size, size, 3) in [0, 255]."""
    photos = _photos()
    name = sorted(photos)[int(rng.integers(len(photos)))]
    photo = photos[name]
    left, right = (part * photo.width for part in _COLUMNS[split])
    # The same largest crop for both splits: otherwise validation has photographs at another scale.
    largest = min(photo.height, *((b - a) * photo.width for a, b in _COLUMNS.values()))
    low, high = (min(times * size, largest) for times in look.crop)
    side = rng.uniform(low, high)
    x, y = rng.uniform(left, right - side), rng.uniform(0, photo.height - side)
    crop = photo.resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))
    canvas = np.asarray(crop, dtype=np.float32) * np.float32(rng.uniform(*look.light))
    return name, canvas[:, ::-1].copy() if rng.random() < 0.5 else canvas


def _glyph(split: str, label: int, rng: np.random.Generator) -> Image.Image:
    glyphs = _glyphs(split)[label]
    return Image.fromarray(glyphs[int(rng.integers(len(glyphs)))])


def _draw(
    glyph: Image.Image, middle: NDArray[np.float64], rng: np.random.Generator, size: int, look: Look
) -> tuple[NDArray[np.float32], tuple[slice, slice]]:
    """Draw a glyph around `middle` (x, y, in cells): the ink (h, w) in [0, 1], and its place in the scene."""
    cell = size / look.rows
    height, stretch = cell * rng.uniform(*look.height), rng.uniform(*look.stretch)
    angle = math.radians(rng.uniform(-look.turn, look.turn))
    x, y = cell * (middle + rng.uniform(-look.shift, look.shift, size=2))
    # Pillow wants the inverse map: from a pixel of the scene to a place in the padded glyph.
    across, along, centre = _GLYPH / (height * stretch), _GLYPH / height, _PAD + _GLYPH / 2
    cos, sin = math.cos(angle), math.sin(angle)
    back = (
        cos * across, sin * across, centre - across * (cos * x + sin * y),
        -sin * along, cos * along, centre + along * (sin * x - cos * y),
    )  # fmt: skip
    drawn = glyph.transform((size, size), Image.Transform.AFFINE, back, Image.Resampling.BICUBIC)
    left, top, right, bottom = drawn.getbbox() or (0, 0, size, size)
    ink = np.asarray(drawn, dtype=np.float32)[top:bottom, left:right] / np.float32(255)
    return ink, (slice(top, bottom), slice(left, right))


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@cache
def _photos() -> dict[str, Image.Image]:
    from sklearn.datasets import load_sample_images  # seconds to import: only when a scene is composed

    bunch: Any = load_sample_images()
    names = [Path(path).stem for path in bunch.filenames]
    return {name: Image.fromarray(array) for name, array in zip(names, bunch.images, strict=True)}


@cache
def _glyphs(split: str) -> list[NDArray[np.uint8]]:
    """Load the split's handwritten digits by class, (count, 14, 14): 8 x 8 in an empty border."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    rows = slice(*_DIGITS[split])
    grey = np.rint(bunch.images[rows] * (255 / 16)).astype(np.uint8)  # levels 0 to 16
    padded = np.pad(grey, ((0, 0), (_PAD, _PAD), (_PAD, _PAD)))
    return [padded[bunch.target[rows] == label] for label in range(len(CLASSES))]
