"""The demo's scenes in COCO's layout: boxes and masks of every digit, a few crowds, a few empty images."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mae.data.demo.scenes import CLASSES, Look, Scene, dense_look
from mae.data.demo.tree import DemoSettings, Log, ScenesBySplit, jpeg, write_file, write_tree

_FIRST_ID = {"train": 1, "val": 1_000_001}  # of images, unique over both splits
_CROWD_EVERY = 25  # one scene in so many has the digits of a class as one crowd


def write_demo_coco(
    root: Path,
    *,
    train: int,
    val: int,
    size: int,
    seed: int,
    look: Look | None = None,
    log: Log | None = None,
) -> dict[str, Any]:
    """Write `root/coco/{train,val}2017/*.jpg` and `root/coco/annotations/instances_{train,val}2017.json`.

    The categories are the digits, ids 1 (zero) to 10 (nine). Masks are exact to the pixel: polygons along
    the pixels' edges, one for each part, or uncompressed run lengths where a mask has a hole or is a crowd.
    look: default `dense_look(size)`. For the other arguments, the result and errors see `write_tree`.
    """
    settings = DemoSettings({"train": train, "val": val}, size, seed, look or dense_look(size))
    return write_tree(root, "coco", _write, settings, len(CLASSES), log)


def segmentation_of(mask: NDArray[np.bool_]) -> list[list[float]] | dict[str, Any]:
    """Make COCO's `segmentation` of a mask (H, W): polygons [x, y, x, y ...], or run lengths for a hole."""
    loops = _outlines(mask)
    if all(_is_clockwise(loop) for loop in loops):
        return [[float(value) for corner in loop for value in corner] for loop in loops]
    return run_lengths_of(mask)


def run_lengths_of(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Encode a mask (H, W) as uncompressed run lengths: of 0 and 1 in turn, column by column."""
    flat = mask.ravel(order="F").astype(np.int8)
    ends = np.flatnonzero(np.diff(flat, prepend=0, append=1 - flat[-1]))
    return {"size": list(mask.shape), "counts": np.diff(ends, prepend=0).tolist()}


def _write(folder: Path, scenes_by_split: ScenesBySplit) -> None:
    (folder / "annotations").mkdir(parents=True)
    for split, split_scenes in scenes_by_split.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        (folder / f"{split}2017").mkdir()
        for scene in split_scenes:
            about = _about(scene)
            write_file(folder / f"{split}2017" / about["file_name"], jpeg(scene.image))
            images.append(about)
            for one in _annotations(scene):
                annotations.append({"id": len(annotations) + 1, "image_id": about["id"], **one})
        content = {
            "info": {"description": "Handwritten digits on photographs, composed", "version": "1.0"},
            "licenses": [{"id": 1, "name": "as scikit-learn's", "url": ""}],
            "images": images,
            "annotations": annotations,
            "categories": [
                {"id": label + 1, "name": name, "supercategory": "digit"}
                for label, name in enumerate(CLASSES)
            ],
        }
        file = folder / "annotations" / f"instances_{split}2017.json"
        write_file(file, json.dumps(content, separators=(",", ":")).encode())


def _about(scene: Scene) -> dict[str, Any]:
    image_id = _FIRST_ID[scene.split] + scene.index
    height, width = scene.image.shape[:2]
    return {
        "id": image_id,
        "file_name": f"{image_id:012d}.jpg",
        "width": width,
        "height": height,
        "license": 1,
    }


def _annotations(scene: Scene) -> list[dict[str, Any]]:
    digits = [(digit.label, digit.mask) for digit in scene.digits]
    annotations = []
    if digits and scene.index % _CROWD_EVERY == _CROWD_EVERY - 1:
        label, count = Counter(label for label, _ in digits).most_common(1)[0]
        if count > 1:
            crowd = np.any([mask for one, mask in digits if one == label], axis=0)
            annotations.append(_annotation(label, crowd, run_lengths_of(crowd), iscrowd=1))
            digits = [(one, mask) for one, mask in digits if one != label]
    annotations += [_annotation(label, mask, segmentation_of(mask), iscrowd=0) for label, mask in digits]
    return annotations


def _annotation(label: int, mask: NDArray[np.bool_], segmentation: Any, *, iscrowd: int) -> dict[str, Any]:
    rows, columns = np.flatnonzero(mask.any(1)).tolist(), np.flatnonzero(mask.any(0)).tolist()
    left, top = columns[0], rows[0]
    return {
        "category_id": label + 1,
        "segmentation": segmentation,
        "bbox": [float(left), float(top), float(columns[-1] + 1 - left), float(rows[-1] + 1 - top)],
        "area": float(mask.sum()),
        "iscrowd": iscrowd,
    }


def _outlines(mask: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """Trace closed paths of corners (x, y) along the edges of set pixels, with these to the right.

    Paths around a part run clockwise, around a hole the other way. Pixels that touch at a corner only are
    separate parts.
    """
    padded = np.pad(mask, 1)
    within = padded[1:-1, 1:-1]
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # The unset neighbour, the start (x, y) of the edge to it, and the edge's direction.
    for (down, right), (x, y), step in (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (0, 1)),
        ((1, 0), (1, 1), (-1, 0)),
        ((0, -1), (0, 1), (0, -1)),
    ):
        neighbour = np.roll(padded, (-down, -right), axis=(0, 1))[1:-1, 1:-1]
        for row, column in np.argwhere(within & ~neighbour).tolist():
            steps.setdefault((column + x, row + y), []).append(step)
    loops = []
    while steps:
        at = min(steps)  # leftmost: no corner of two pixels, so one edge leaves it and the path ends there
        step = (0, 0)
        loop = []
        while at in steps:
            choices = steps[at]
            turned = (-step[1], step[0])  # to the right: around the same pixel
            following = turned if turned in choices else choices[0]
            choices.remove(following)
            if not choices:
                del steps[at]
            if following != step:
                loop.append(at)
            step, at = following, (at[0] + following[0], at[1] + following[1])
        loops.append(loop)
    return loops


def _is_clockwise(loop: list[tuple[int, int]]) -> bool:
    """Tell the direction of a path on a screen, where y grows downwards."""
    ahead = [*loop[1:], loop[0]]
    return sum(x * v - u * y for (x, y), (u, v) in zip(loop, ahead, strict=True)) > 0
