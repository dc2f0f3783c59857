"""Matches between detections and objects, image by image: enough for the AP over any resample of images.

K categories, T = 10 IoU thresholds, D detections, n images. Matching follows the official COCO protocol
(area "all", the best 100 detections of an image and category), like COCOeval of pycocotools.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mae.files import atomic_write

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
BEST = 100
_BIT = np.arange(len(IOU_THRESHOLDS), dtype=np.uint16)

Pair = tuple[int, int]


@dataclass(frozen=True)
class MatchRecords:
    """Detections in rank order: by category, then score (descending), then image.

    image (D,) int32 numbers into image_ids (n,); category (D,) int32; score (D,); matched and ignored (D,)
    uint16, bit t: the detection matches an object, or a crowd, at threshold t. objects (M, 3) int32: image,
    category, number of objects that are no crowd. names (K,): the categories'.
    """

    image_ids: NDArray[np.str_]
    names: NDArray[np.str_]
    image: NDArray[np.int32]
    category: NDArray[np.int32]
    score: NDArray[np.float64]
    matched: NDArray[np.uint16]
    ignored: NDArray[np.uint16]
    objects: NDArray[np.int32]

    def save(self, path: Path) -> None:
        """Write one compressed .npz."""
        with atomic_write(path) as file:  # a file, so that NumPy adds no suffix of its own
            np.savez_compressed(file, **{each.name: getattr(self, each.name) for each in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "MatchRecords":
        """Read the records that `save` wrote. Raises ValueError for a file of another kind."""
        with np.load(path, allow_pickle=False) as stored:
            missing = [each.name for each in fields(cls) if each.name not in stored]
            if missing:
                raise ValueError(f"{path}: not a file of match records; {', '.join(missing)} missing")
            return cls(**{each.name: stored[each.name] for each in fields(cls)})


class ResampledAP:
    """AP over weighted images: one pass over the hits, none over pixels."""

    def __init__(self, records: MatchRecords) -> None:
        self.records = records
        kinds, thresholds = len(records.names), len(IOU_THRESHOLDS)
        ignored = (records.ignored >> _BIT[:, None] & 1).astype(bool)
        hit = (records.matched >> _BIT[:, None] & 1).astype(bool) & ~ignored
        # Only hits and ignored detections are visited one by one: precision falls between them.
        threshold, self._detection = np.nonzero(hit | ignored)
        self._hit = hit[threshold, self._detection]
        self._kind = records.category[self._detection]
        self._segment = threshold * kinds + self._kind
        self._first = np.searchsorted(self._segment, np.arange(thresholds * kinds))
        self._category_first = np.searchsorted(records.category, np.arange(kinds))

    def table(self, weights: ArrayLike | None = None) -> NDArray[np.float64]:
        """Compute AP per threshold and category (T, K); nan where a category has no object.

        weights: (n,), how often each image counts; all 1 by default.
        """
        records = self.records
        images = len(records.image_ids)
        weight = np.ones(images) if weights is None else np.asarray(weights, dtype=np.float64)
        if weight.shape != (images,):
            raise ValueError(f"expected weights for {images} images, got shape {weight.shape}")
        kinds = len(records.names)
        image, kind, count = records.objects.T
        objects = np.bincount(kind, weight[image] * count, minlength=kinds)
        ranked = np.concatenate([[0.0], np.cumsum(weight[records.image])])
        ranked = ranked[self._detection + 1] - ranked[self._category_first][self._kind]
        each = weight[records.image[self._detection]]
        right = self._running(each * self._hit)
        precision = right / (ranked - self._running(each * ~self._hit) + np.spacing(1))
        # The number of the 101 recalls that are reached here and not before. Each counts the best precision
        # from here on; one pass gives it for all segments, lifting each one above those after it.
        reached = np.searchsorted(RECALLS, right / np.maximum(objects, 1)[self._kind], side="right")
        before = np.concatenate([[0], reached[:-1]])
        before[self._first[self._first < len(reached)]] = 0
        lift = -2.0 * self._segment
        best = np.maximum.accumulate((precision + lift)[::-1])[::-1] - lift
        shape = (len(IOU_THRESHOLDS), kinds)
        area = np.bincount(self._segment, best * (reached - before), minlength=shape[0] * shape[1])
        return np.where(objects > 0, area.reshape(shape) / len(RECALLS), np.nan)

    def __call__(self, weights: ArrayLike | None = None) -> float:
        """Compute the mean of `table` over thresholds and the categories with objects; nan without any."""
        table = self.table(weights)
        present = ~np.isnan(table)
        return float(table[present].mean()) if present.any() else float("nan")

    def _running(self, values: NDArray[Any]) -> NDArray[np.float64]:
        total = np.concatenate([[0.0], np.cumsum(values)])
        return total[1:] - total[self._first][self._segment]


def resampled_ap(records: MatchRecords) -> Callable[[NDArray[np.int64]], float]:
    """Make AP a statistic of drawn image numbers, for `confidence.statistic_interval`."""
    value = ResampledAP(records)
    return lambda rows: value(np.bincount(rows, minlength=len(records.image_ids)))


def paired_ap(ours: MatchRecords, theirs: MatchRecords) -> Callable[[NDArray[np.int64]], tuple[float, float]]:
    """Make both APs a statistic of drawn image numbers, for `confidence.paired_statistic_gain`.

    Raises ValueError unless both were evaluated on the same images, categories and objects.
    """
    for name, what in (("image_ids", "images"), ("names", "categories"), ("objects", "objects")):
        if not np.array_equal(getattr(ours, name), getattr(theirs, name)):
            raise ValueError(f"a paired comparison needs the same {what}: evaluate both on the same data")
    first, second = resampled_ap(ours), resampled_ap(theirs)
    return lambda rows: (first(rows), second(rows))


def match_records(
    targets: Mapping[Pair, Sequence[Mapping[str, Any]]],
    results: Mapping[Pair, Sequence[Mapping[str, Any]]],
    ious: Mapping[Pair, Any],
    image_ids: Sequence[Any],
    names: Sequence[str],
) -> MatchRecords:
    """Match detections and objects of every image and category.

    targets and results: annotations and detections by (image number, category number), both from 1; ious:
    for the same pairs (best 100 detections by score, objects), with the overlap that crowds have; empty where
    there is nothing to compare. image_ids and names: of the images and categories, in the order of their
    numbers.
    """
    objects = [
        (image - 1, category - 1, sum(not each["iscrowd"] for each in targets[image, category]))
        for image, category in sorted(targets)
    ]
    parts: list[tuple[Any, ...]] = []
    for pair in sorted(results):
        scores = np.array([each["score"] for each in results[pair]], dtype=np.float64)
        scores = scores[np.argsort(-scores, kind="stable")[:BEST]]
        crowd = np.array([bool(each["iscrowd"]) for each in targets.get(pair, ())], dtype=bool)
        overlap = np.asarray(ious[pair], dtype=np.float64) if len(crowd) else np.zeros((len(scores), 0))
        matched, ignored = match(overlap, crowd)
        image, category = (np.full(len(scores), number) for number in pair)
        parts.append((image, category, scores, matched, ignored))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] or [np.zeros(0)] * 5
    image, category, score, matched, ignored = columns
    order = np.lexsort((image, -score, category))
    return MatchRecords(
        image_ids=np.array([str(each) for each in image_ids], dtype=np.str_),
        names=np.array(names, dtype=np.str_),
        image=image[order].astype(np.int32) - 1,
        category=category[order].astype(np.int32) - 1,
        score=score[order],
        matched=matched[order].astype(np.uint16),
        ignored=ignored[order].astype(np.uint16),
        objects=np.array(objects, dtype=np.int32).reshape(-1, 3),
    )


def match(
    ious: NDArray[np.float64], crowd: NDArray[np.bool_]
) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Match one image and category: (matched, ignored), each (detections,) with bit t for threshold t.

    ious (detections by descending score, objects; either may be 0); crowd (objects,). A detection matches the
    free object with the highest overlap (the later one of equals), else any crowd that it overlaps enough.
    """
    matched, ignored = (np.zeros(len(ious), dtype=np.uint16) for _ in range(2))
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    single = ious[:, ~crowd][:, ::-1]  # reversed, so that argmax gives the later one of equals
    crowded = ious[:, crowd].max(axis=1, initial=-1.0)
    free = np.ones((len(thresholds), single.shape[1]), dtype=bool)
    for number in np.flatnonzero(ious.max(axis=1, initial=-1.0) >= thresholds[0]):
        hit = np.zeros(len(thresholds), dtype=bool)
        if single.shape[1]:
            fits = free & (single[number] >= thresholds[:, None])
            best = np.where(fits, single[number], -1.0).argmax(axis=1)
            hit = fits.any(axis=1)
            free[hit, best[hit]] = False
        lost = ~hit & (crowded[number] >= thresholds)
        matched[number] = ((hit | lost) << _BIT).sum()
        ignored[number] = (lost << _BIT).sum()
    return matched, ignored
