"""Checks of settings against the size of the data: batches, labels for each class, neighbours, codes.

The numbers are those of the demo, or of the index where the shards are there already; where they are not, a
stage checks its own settings when it starts, before it computes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae import config
from mae.config import Params
from mae.config.paths import DETECTION, IMAGES, SEGMENTATION, DataSet
from mae.data.shards.index import Index
from mae.data.shards.split import ShardError
from mae.files import read_json

DEMO_CLASSES = 10
LABELLED = ("linear", "attentive", "partial", "finetune", "scratch")
DENSE = {"detect": DETECTION, "segment": SEGMENTATION}


@dataclass(frozen=True)
class Sizes:
    """Training images, in all and of each class; per_class is empty without labels."""

    images: int
    per_class: tuple[int, ...] = ()


def beyond_the_data(params: Params) -> Iterator[str]:
    """Yield the faults of every stage whose data are known."""
    sizes = _sizes(params, IMAGES, "ingest")
    if sizes is not None:
        for stage in ("tokenizer", "pretrain", "knn", *LABELLED):
            if hasattr(params, stage):
                yield from faults_of(stage, params, sizes)
    for stage, files in DENSE.items():
        if hasattr(params, stage) and hasattr(params, f"ingest_{stage}"):
            found = _sizes(params, files, f"ingest_{stage}")
            yield from faults_of(stage, params, found) if found else ()


def refuse_beyond_the_data(stage: str, params: Params, index: Index) -> None:
    """Raise InvalidParams for settings of this stage that its data cannot meet."""
    if stage in ("tokenizer", "pretrain", "knn", *LABELLED, *DENSE):
        config.refuse(list(faults_of(stage, params, sizes_of(index))), str(index.directory))


def faults_of(stage: str, params: Params, sizes: Sizes) -> Iterator[str]:
    """Yield the faults of one stage."""
    given = getattr(params, stage)
    if (stage == "tokenizer" and given.kind == "none") or (stage in LABELLED and not sizes.per_class):
        return  # it has nothing to do
    images = sizes.images
    labels = getattr(given, "labels_per_class", None)
    if labels is not None:
        largest = max(sizes.per_class)
        if labels > largest:
            yield (
                f"{stage}.labels_per_class {labels}: no class has more than {largest} images for training; "
                "lower it, or set it to null for all"
            )
        images = sum(min(count, labels) for count in sizes.per_class)
    if getattr(given, "batch_size", 0) > images:
        yield (
            f"{stage}.batch_size {given.batch_size}: above the {images} images that it trains on, so that a "
            f"step would see some twice; lower it to {images} or less"
        )
    if stage == "knn" and given.k > images:
        yield f"knn.k {given.k}: above the {images} images for training; lower it"
    if stage == "pretrain":
        found = len(sizes.per_class)
        wanted = getattr(getattr(params, given.method, None), "num_classes", found)
        if wanted != found:
            remedy = "set it to that" if found else "choose a method that needs no labels"
            yield f"{given.method}.num_classes {wanted}: the images have {found} classes; {remedy}"
    if stage == "tokenizer" and given.kind in ("kmeans", "palette") and params.encoder.grid is not None:
        vectors = given.epochs * images * max(1, int(np.prod(params.encoder.grid)) // 2)
        if given.codes > vectors:
            yield (
                f"tokenizer.codes {given.codes}: {images} images have only {vectors} patches to choose them "
                "from; lower it"
            )


def sizes_of(index: Index) -> Sizes:
    """Count by the index, and labels by the table of samples where it is there."""
    train = index.split("train")
    if not index.classes:
        return Sizes(len(train))
    labels = train.labels
    counts = np.bincount(labels[labels >= 0], minlength=len(index.classes))
    return Sizes(len(train), tuple(counts.tolist()))


def _sizes(params: Params, files: DataSet, section: str) -> Sizes | None:
    given: Any = getattr(params, section)
    if given.source == "demo":
        if files is not IMAGES:
            return Sizes(getattr(params.demo, section.removeprefix("ingest_")).train)
        count = params.demo.train
        classes = range(DEMO_CLASSES)  # in turn
        return Sizes(count, tuple(len(range(first, count, DEMO_CLASSES)) for first in classes))
    manifest = read_json(files.manifest)
    if not isinstance(manifest, dict) or Path(str(manifest.get("root"))) != Path(given.root):
        return None  # none yet, or of other images
    try:
        return sizes_of(Index.open(files.shards, here=False))
    except (ShardError, OSError, KeyError):
        return None
