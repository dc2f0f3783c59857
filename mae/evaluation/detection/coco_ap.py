"""Average precision of detections by the official COCO protocol, computed by faster_coco_eval.

Ground truth is the official instances json ({"images", "annotations", "categories"}) and results are the
official results json, both as plain values. Two results formats are official: boxes alone and masks alone
(`of_kind`). With both at once, pycocotools sorts masks into small, medium and large by the area of their
boxes.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from mae.evaluation.detection.ap_records import IOU_THRESHOLDS, RECALLS, MatchRecords, Pair, match_records

KINDS = {"bbox": "bbox", "segm": "segmentation"}
FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True)
class DetectionEvaluation:
    """Figures, precision-recall curve, a row for each category, and match records of one kind.

    figures: the twelve official ones (fractions; -1, as officially, where no object is of that size): AP over
    IoU .50 to .95, AP50, AP75, APs APm APl by the object's area, AR1 AR10 AR100 (the best 1, 10, 100
    detections of an image and category), ARs ARm ARl. curve: 101 rows of recall, precision_50, precision_75
    and precision (the mean over the ten IoU thresholds), each the mean over the categories with objects.
    categories: a row for each of those, in official order: category (its name), objects, AP, AP50, AP75,
    AR100.
    """

    figures: dict[str, float]
    curve: list[dict[str, float]]
    categories: list[dict[str, Any]]
    records: MatchRecords


def as_results(
    detections: Sequence[Mapping[str, Any]], image_ids: Sequence[int | str], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Convert detections to official results: image_id, category_id, bbox [x, y, w, h], score, segmentation.

    detections: per image boxes (n, 4) xyxy px, labels (n,) indices into `category_ids`, scores (n,) and
    perhaps masks: n RLE dicts {"size": [H, W], "counts"}, the segmentations. Raises ValueError for lists of
    different lengths, a label that is no category, a score that is not finite.
    """
    entries: list[dict[str, Any]] = []
    for image_id, objects in zip(image_ids, detections, strict=True):
        boxes, labels, scores = (
            torch.as_tensor(objects[key]).tolist() for key in ("boxes", "labels", "scores")
        )
        masks = objects["masks"] if "masks" in objects else [None] * len(boxes)
        for box, label, score, mask in zip(boxes, labels, scores, masks, strict=True):
            if not 0 <= label < len(category_ids):
                raise ValueError(
                    f"image {image_id}: label {label}, but there are {len(category_ids)} categories"
                )
            if not math.isfinite(score):
                raise ValueError(f"image {image_id}: a detection's score is {score}")
            left, top, right, bottom = box
            entry = {
                "image_id": image_id,
                "category_id": category_ids[label],
                "bbox": [left, top, right - left, bottom - top],
                "score": score,
            }
            entries.append(entry if mask is None else entry | {"segmentation": _plain(mask)})
    return entries


def of_kind(results: Sequence[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Reduce results to the official json of one kind: "bbox" has boxes alone, "segm" segmentations alone.

    Raises ValueError for another kind, or where an entry lacks the kind's key.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is one of {', '.join(KINDS)}, not {kind!r}")
    shape = KINDS[kind]
    for number, entry in enumerate(results):
        if shape not in entry:
            raise ValueError(
                f"result {number} (image {entry.get('image_id')}) has no {shape!r}, which {kind!r} evaluates"
            )
    return [{key: entry[key] for key in ("image_id", "category_id", shape, "score")} for entry in results]


def evaluate_detections(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kind: str
) -> DetectionEvaluation:
    """Evaluate detections of one kind: "bbox" or "segm". Every image of the ground truth counts.

    Raises ValueError for results or annotations that do not belong to the ground truth.
    """
    results = of_kind(results, kind)
    images = sorted(ground_truth["images"], key=lambda image: (isinstance(image["id"], str), image["id"]))
    categories = list(ground_truth["categories"])
    if not images or not categories:
        raise ValueError("nothing to evaluate: the ground truth has no images or no categories")
    # Renumber from 1: ids may be strings, and the official code takes an annotation 0 for "unmatched".
    numbers = _Numbers(
        {image["id"]: number for number, image in enumerate(images, 1)},
        {category["id"]: number for number, category in enumerate(categories, 1)},
    )
    sizes = {numbers.image[image["id"]]: [image["height"], image["width"]] for image in images}
    targets = COCO(
        {
            "images": [{"id": n, "height": height, "width": width} for n, (height, width) in sizes.items()],
            "annotations": _annotations(ground_truth["annotations"], numbers, kind),
            "categories": [{"id": n, "name": each["name"]} for n, each in enumerate(categories, 1)],
        }
    )
    detections = targets.loadRes(_entries(results, numbers, sizes))
    evaluator = COCOeval_faster(targets, detections, iouType=kind)
    evaluator.run()
    objects, entries = (by_pair(each.dataset["annotations"]) for each in (targets, detections))
    names = [str(category["name"]) for category in categories]
    ids = [image["id"] for image in images]
    records = match_records(objects, entries, evaluator.ious, ids, names)
    precision = np.asarray(evaluator.eval["precision"])[:, :, :, 0, -1]  # thresholds, recalls, categories
    recall = np.asarray(evaluator.eval["recall"])[:, :, 0, -1]
    figures = [float(value) for value in evaluator.stats[: len(FIGURES)]]
    return DetectionEvaluation(
        figures=dict(zip(FIGURES, figures, strict=True)),
        curve=_curve(precision),
        categories=_rows(precision, recall, records),
        records=records,
    )


@dataclass(frozen=True)
class _Numbers:
    """Numbers from 1 of images and categories, by their ids."""

    image: Mapping[int | str, int]
    category: Mapping[int, int]

    def of(self, entry: Mapping[str, Any], what: str) -> dict[str, int]:
        """Look up the numbers of an entry's image and category. Raises ValueError for unknown ones."""
        for key, known in (("image_id", self.image), ("category_id", self.category)):
            if entry[key] not in known:
                raise ValueError(f"{what} has {key} {entry[key]!r}, which the ground truth does not list")
        return {"image_id": self.image[entry["image_id"]], "category_id": self.category[entry["category_id"]]}


def _annotations(
    annotations: Sequence[Mapping[str, Any]], numbers: _Numbers, kind: str
) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for number, entry in enumerate(annotations, 1):
        what = f"annotation {entry.get('id', number)} of image {entry['image_id']}"
        if "area" not in entry or not entry.get(KINDS[kind]):
            raise ValueError(f"{what} has no area or no {KINDS[kind]!r}, which {kind!r} needs")
        new: dict[str, Any] = {"id": number, "iscrowd": int(entry.get("iscrowd", 0)), "area": entry["area"]}
        entries.append(new | {KINDS[kind]: entry[KINDS[kind]]} | numbers.of(entry, what))
    return entries


def _entries(
    results: Sequence[Mapping[str, Any]], numbers: _Numbers, sizes: Mapping[int, list[int]]
) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for number, entry in enumerate(results):
        new = dict(entry) | numbers.of(entry, f"result {number}")
        size = sizes[new["image_id"]]
        if "segmentation" in entry and list(entry["segmentation"]["size"]) != size:
            raise ValueError(
                f"result {number}: a mask of {entry['segmentation']['size']} (height, width) "
                f"on image {entry['image_id']} of {size}"
            )
        entries.append(new)
    return entries


def by_pair(entries: Sequence[Mapping[str, Any]]) -> dict[Pair, list[Mapping[str, Any]]]:
    """Group annotations or results by (image_id, category_id), in their order."""
    groups: dict[Pair, list[Mapping[str, Any]]] = defaultdict(list)
    for entry in entries:
        groups[entry["image_id"], entry["category_id"]].append(entry)
    return dict(groups)


def _curve(precision: NDArray[np.float64]) -> list[dict[str, float]]:
    present = (precision > -1).all(axis=(0, 1))
    if not present.any():
        return []
    curves = precision[:, :, present].mean(axis=2)
    half, strict = (int(np.argmin(abs(IOU_THRESHOLDS - wanted))) for wanted in (0.5, 0.75))
    rows = zip(RECALLS, curves[half], curves[strict], curves.mean(axis=0), strict=True)
    names = ("recall", "precision_50", "precision_75", "precision")
    return [{name: float(value) for name, value in zip(names, row, strict=True)} for row in rows]


def _rows(
    precision: NDArray[np.float64], recall: NDArray[np.float64], records: MatchRecords
) -> list[dict[str, Any]]:
    _, kind, count = records.objects.T
    objects = np.bincount(kind, count, minlength=len(records.names)).astype(int)
    half, strict = (int(np.argmin(abs(IOU_THRESHOLDS - wanted))) for wanted in (0.5, 0.75))
    return [
        {
            "category": str(records.names[number]),
            "objects": int(objects[number]),
            "AP": float(precision[:, :, number].mean()),
            "AP50": float(precision[half, :, number].mean()),
            "AP75": float(precision[strict, :, number].mean()),
            "AR100": float(recall[:, number].mean()),
        }
        for number in np.flatnonzero(objects)
    ]


def _plain(mask: Mapping[str, Any]) -> dict[str, Any]:
    counts = mask["counts"]
    counts = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(side) for side in mask["size"]], "counts": counts}
