"""Annotations of finished shards: a sample's objects or label map, and a split's ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae.data.label_png import MAX_VALUE, label_values
from mae.data.shards.split import ShardError, Split
from mae.models.segmentation import IGNORE


class Objects:
    """A callable (split, row) -> the objects of an image, for detection. Cheap to send to another process.

    categories: the index's [{"id", "name"}]. The target: image_id (int or str), width, height (pixels) and
    annotations, the official fields (id, category_id, bbox [x, y, w, h] in pixels, area, iscrowd,
    segmentation) with `category`, the 0-based index of the category, added. Raises: ShardError for shards
    without such annotations.
    """

    def __init__(self, categories: Sequence[Mapping[str, Any]]) -> None:
        self._index = {one["id"]: index for index, one in enumerate(categories)}

    def __call__(self, split: Split, row: int) -> dict[str, Any]:
        about = _objects_of(split, row)
        annotations = [{**one, "category": self._index[one["category_id"]]} for one in about["annotations"]]
        return {
            "image_id": about["image_id"],
            "width": about["width"],
            "height": about["height"],
            "annotations": annotations,
        }


class LabelMap:
    """A callable (split, row) -> uint8 tensor (H, W) of 0-based category indices, IGNORE where not labelled.

    categories: the index's [{"id": value in the maps, "name"}], at most 255; ignore: values that mean "not
    labelled". Cheap to send to another process. Raises: ShardError for shards without label maps.
    """

    def __init__(self, categories: Sequence[Mapping[str, Any]], ignore: Sequence[int] = ()) -> None:
        if len(categories) > IGNORE:
            raise ValueError(f"{len(categories)} categories: label maps in 8 bits hold at most {IGNORE}")
        self._values, self._ignore = [int(one["id"]) for one in categories], list(ignore)
        self._table: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_table": None}

    def __call__(self, split: Split, row: int) -> Tensor:
        if self._table is None:
            self._table = np.full(MAX_VALUE + 1, IGNORE, dtype=np.uint8)
            self._table[self._values] = np.arange(len(self._values))
            self._table[self._ignore] = IGNORE
        return torch.from_numpy(self._table[label_values(split.member(row, "labels.png"))])


def ground_truth(split: Split, categories: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Build an official instances json of the split: images, annotations, categories, in the shards' order.

    Annotations keep their ids where all are different whole numbers from 1 on; otherwise all are
    renumbered from 1, since COCO's evaluation reads an id of 0 as "nothing matched". Raises: ShardError for
    shards without such annotations.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row in range(len(split)):
        about = _objects_of(split, row)
        image_id = about["image_id"]
        sides = {"width": about["width"], "height": about["height"]}
        images.append({"id": image_id, "file_name": about["path"].rsplit("/", 1)[-1], **sides})
        annotations += [{**one, "image_id": image_id} for one in about["annotations"]]
    ids = [one["id"] for one in annotations]
    if len(set(map(str, ids))) < len(ids) or not all(isinstance(one, int) and one > 0 for one in ids):
        annotations = [{**one, "id": number} for number, one in enumerate(annotations, 1)]
    return {"images": images, "annotations": annotations, "categories": [dict(one) for one in categories]}


def _objects_of(split: Split, row: int) -> dict[str, Any]:
    about = split.meta(row)
    if "annotations" not in about:
        raise ShardError(f"{split.directory / about['shard']}: sample {about['key']} has no annotations")
    return about
