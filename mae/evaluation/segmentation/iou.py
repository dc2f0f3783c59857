"""Intersection over union of label maps, from counts per image that add up over any set of images.

K classes, n images; H, W pixels. A pixel whose label is `IGNORE` counts nowhere.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mae import distributed
from mae.models.segmentation import IGNORE

Counts = NDArray[np.int64]


def pixel_counts(predicted: Tensor, labels: Tensor, num_classes: int) -> Counts:
    """Count one image's pixels per class: (3, K) int64, right, predicted and labelled.

    Only labelled pixels count. predicted, labels: (H, W) integers on any device. Raises ValueError for maps
    of two sizes or a value that is no class.
    """
    predicted, labels = torch.as_tensor(predicted), torch.as_tensor(labels)
    if predicted.shape != labels.shape or labels.ndim != 2:
        raise ValueError(
            f"a prediction of {tuple(predicted.shape)} against labels of {tuple(labels.shape)}: "
            "both are (H, W) of the original image"
        )
    labels = labels.to(predicted.device)
    sure = labels != IGNORE
    guess, label = predicted[sure].long(), labels[sure].long()
    for name, values in (("predicted", guess), ("label", label)):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            raise ValueError(
                f"{name} values from {int(values.min())} to {int(values.max())}, "
                f"but there are {num_classes} classes"
            )
    rows = [torch.bincount(values, minlength=num_classes) for values in (label[guess == label], guess, label)]
    return torch.stack(rows).cpu().numpy()


def gather_counts(rows: Sequence[int], counts: Sequence[Counts]) -> tuple[NDArray[np.int64], Counts]:
    """Gather (rows (n,), counts (n, 3, K)) of all ranks on every rank: each image once, by ascending row.

    Raises ValueError where no rank has any.
    """
    whole = distributed.gather_rows(dict(zip(rows, counts, strict=True)))
    if not whole:
        raise ValueError("nothing to evaluate: no image was read")
    return np.array(list(whole), dtype=np.int64), np.stack(list(whole.values()))


def iou_figures(counts: ArrayLike) -> dict[str, Any]:
    """Compute the figures of all images together, as fractions, from counts (n, 3, K).

    mIoU: mean IoU over the classes that occur in labels or predictions. mAcc: mean share of a class's pixels
    that are right, over the classes that occur in labels. aAcc: share of all labelled pixels that are right.
    IoU, Acc: lists of K, None where the class does not occur. Like IoUMetric of mmsegmentation (nan-means).
    Raises ValueError where no pixel is labelled.
    """
    counts = _checked(counts)
    right, predicted, labelled = counts.sum(axis=0).astype(np.float64)
    if not labelled.sum():
        raise ValueError("nothing to evaluate: no pixel of these images is labelled")
    iou, accuracy = _ratio(right, predicted + labelled - right), _ratio(right, labelled)
    return {
        "mIoU": float(np.nanmean(iou)),
        "mAcc": float(np.nanmean(accuracy)),
        "aAcc": float(right.sum() / labelled.sum()),
        "IoU": [None if np.isnan(value) else float(value) for value in iou],
        "Acc": [None if np.isnan(value) else float(value) for value in accuracy],
    }


def resampled_miou(counts: ArrayLike) -> Callable[[NDArray[np.int64]], float]:
    """Make mIoU a statistic of drawn image numbers, for `confidence.statistic_interval`.

    It is nan where no pixel of the drawn images is labelled.
    """
    counts = _checked(counts)
    flat = counts.reshape(len(counts), -1).astype(np.float64)

    def value(rows: NDArray[np.int64]) -> float:
        total = np.bincount(rows, minlength=len(flat)) @ flat  # whole numbers: exact up to 2**53
        right, predicted, labelled = total.reshape(counts.shape[1:])
        iou = _ratio(right, predicted + labelled - right)
        return float(np.nanmean(iou)) if labelled.any() else float("nan")

    return value


def paired_miou(ours: ArrayLike, theirs: ArrayLike) -> Callable[[NDArray[np.int64]], tuple[float, float]]:
    """Make both mIoUs a statistic of drawn image numbers, for `confidence.paired_statistic_gain`.

    Raises ValueError unless both were evaluated on the same labels.
    """
    ours, theirs = _checked(ours), _checked(theirs)
    if ours.shape != theirs.shape or not np.array_equal(ours[:, 2], theirs[:, 2]):
        raise ValueError("a paired comparison needs the same images: the labels of these two differ")
    first, second = resampled_miou(ours), resampled_miou(theirs)
    return lambda rows: (first(rows), second(rows))


def _checked(counts: ArrayLike) -> Counts:
    counts = np.asarray(counts, dtype=np.int64)
    if counts.ndim != 3 or counts.shape[1] != 3 or not len(counts):
        raise ValueError(f"counts are (images, 3, classes), got shape {counts.shape}")
    return counts


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)
