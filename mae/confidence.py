"""How sure a measured accuracy is: bootstrap intervals over the evaluated samples."""

import numpy as np
from numpy.typing import ArrayLike


def bootstrap_interval(
    values: ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of the mean of `values` (n,).

    A resample of n values with replacement is a multinomial draw of how often each distinct value comes:
    exact, and 50,000 right-or-wrong answers cost two counts a resample instead of 50,000 indices.
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
    """(gain, low, high): mean of candidate - champion over the same samples in order, and its interval.

    Raises ValueError if the two do not have the same number of samples.
    """
    ours, theirs = np.asarray(candidate, dtype=np.float64), np.asarray(champion, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError(f"a paired comparison needs the same samples: {ours.shape} against {theirs.shape}")
    return float((ours - theirs).mean()), *bootstrap_interval(ours - theirs, confidence, resamples, seed)
