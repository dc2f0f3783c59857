"""Bootstrap intervals of measured figures, and of the gain of one model over another."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray


def bootstrap_interval(
    values: ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval (low, high) of the mean of `values` (n,).

    A resample of n values with replacement is a multinomial draw of the count of each distinct value. This
    is exact, and 50,000 right-or-wrong answers cost two counts a resample instead of 50,000 indices.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"a bootstrap needs a row of values, got shape {values.shape}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    distinct, counts = np.unique(values, return_counts=True)
    draw = np.random.default_rng(seed)
    at_once = max(1, 4_000_000 // len(distinct))
    sizes = [min(at_once, resamples - done) for done in range(0, resamples, at_once)]
    shares = counts / len(values)
    means = [draw.multinomial(len(values), shares, size=size) @ distinct / len(values) for size in sizes]
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_gain(
    candidate: ArrayLike,
    champion: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Compute (gain, low, high): the mean of candidate - champion over the same samples, and its interval.

    Both have the samples in the same order. Raises ValueError where their numbers of samples differ.
    """
    ours, theirs = np.asarray(candidate, dtype=np.float64), np.asarray(champion, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"a paired comparison needs the same samples: {ours.shape} against {theirs.shape}")
    return float((ours - theirs).mean()), *bootstrap_interval(ours - theirs, confidence, resamples, seed)


def statistic_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    count: int,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval (low, high) of a figure (AP, mIoU) over `count` images.

    statistic: image numbers (count,) int64, ascending, each as often as it was drawn -> the figure over them,
    nan where it is undefined (no object in any of them). Such a resample is left out. Raises ValueError where
    the figure is undefined on every resample.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    if count < 1 or resamples < 1:
        raise ValueError(f"a bootstrap needs images and resamples, got {count} and {resamples}")
    draw = np.random.default_rng(seed)
    values = np.empty(resamples)
    for number in range(resamples):
        values[number] = statistic(np.sort(draw.integers(0, count, count)))
    values = values[~np.isnan(values)]
    if not len(values):
        raise ValueError("the statistic is undefined on every resample: check that the images have labels")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def paired_statistic_gain(
    statistic: Callable[[NDArray[np.int64]], tuple[float, float]],
    count: int,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Compute (gain, low, high) of ours - theirs, where `statistic` gives both over the same images.

    Like `paired_gain`, for figures that are no mean over samples; arguments as in `statistic_interval`.
    Raises ValueError where either side is undefined over all images.
    """

    def difference(rows: NDArray[np.int64]) -> float:
        ours, theirs = statistic(rows)
        return float(ours) - float(theirs)

    gain = difference(np.arange(count))
    if np.isnan(gain):
        raise ValueError("the statistic is undefined over all images: check that the images have labels")
    return gain, *statistic_interval(difference, count, confidence, resamples, seed)
