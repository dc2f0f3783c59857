"""The demo's scenes in ADE20K's layout: a label map for every image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mae.data.demo.scenes import CLASSES, Look, Scene, dense_look
from mae.data.demo.tree import DemoSettings, Log, ScenesBySplit, jpeg, write_file, write_tree

NAMES = (*CLASSES, "photograph")  # of the values 1, 2 ...; 0 is not labelled
_FOLDERS = {"train": "training", "val": "validation"}


def write_demo_ade20k(
    root: Path,
    *,
    train: int,
    val: int,
    size: int,
    seed: int,
    look: Look | None = None,
    log: Log | None = None,
) -> dict[str, Any]:
    """Write `root/ADEChallengeData2016`: images, annotations (training, validation) and objectInfo150.txt.

    Values of the maps: 1 (zero) to 10 (nine) on a digit and close around its strokes, 11 on the photograph
    behind, 0 on the ambiguous rim between the two. look: default `dense_look(size)`. For the other arguments,
    the result and errors see `write_tree`.
    """
    settings = DemoSettings({"train": train, "val": val}, size, seed, look or dense_look(size))
    return write_tree(root, "ADEChallengeData2016", _write, settings, len(NAMES), log)


def label_map(scene: Scene) -> NDArray[np.uint8]:
    """Draw the label map (size, size) of a scene, with the values above.

    A digit's region reaches a sixth of its height around the strokes, like an annotator's outline. The
    strokes alone are a pixel or two wide, an eighth of the picture: with them, the loss over nearly all
    photograph taught the places of digits long before their classes.
    """
    labels = np.full(scene.unsure.shape, len(NAMES), dtype=np.uint8)
    bodies = [(digit, max(1, round((digit.box[3] - digit.box[1]) / 6))) for digit in scene.digits]
    for digit, margin in bodies:
        labels[_grown(digit.mask, margin + 1)] = 0
    for digit, margin in bodies:
        labels[_grown(digit.mask, margin)] = digit.label + 1
    for digit, _ in bodies:
        labels[digit.mask] = digit.label + 1
    return labels


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """Dilate a mask (H, W) by `by` pixels along rows and columns."""
    return np.asarray(Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(2 * by + 1))) > 0


def _write(folder: Path, scenes_by_split: ScenesBySplit) -> None:
    pixels = {split: np.zeros(len(NAMES) + 1, dtype=np.int64) for split in scenes_by_split}
    images = {split: np.zeros(len(NAMES) + 1, dtype=np.int64) for split in scenes_by_split}
    for split, split_scenes in scenes_by_split.items():
        for kind in ("images", "annotations"):
            (folder / kind / _FOLDERS[split]).mkdir(parents=True)
        for scene in split_scenes:
            name = f"ADE_{split}_{scene.index + 1:08d}"
            labels = label_map(scene)
            write_file(folder / "images" / _FOLDERS[split] / f"{name}.jpg", jpeg(scene.image))
            write_file(folder / "annotations" / _FOLDERS[split] / f"{name}.png", _png(labels))
            counts = np.bincount(labels.ravel(), minlength=len(NAMES) + 1)
            pixels[split] += counts
            images[split] += counts > 0
    share = pixels["train"] / pixels["train"].sum()
    lines = ["Idx\tRatio\tTrain\tVal\tName"]
    for value, name in enumerate(NAMES, 1):
        lines.append(f"{value}\t{share[value]:.4f}\t{images['train'][value]}\t{images['val'][value]}\t{name}")
    write_file(folder / "objectInfo150.txt", "".join(f"{line}\n" for line in lines).encode())


def _png(labels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, "PNG")
    return buffer.getvalue()
