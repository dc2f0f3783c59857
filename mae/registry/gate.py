"""The gate: decide from numbers alone if a challenger replaces the champion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mae.evaluation.confidence import paired_gain

RESAMPLES = 10_000


@dataclass(frozen=True)
class Decision:
    """The gate's decision. `gain` = challenger's `figure` - champion's, with its interval (low, high).

    Numbers are None where nothing was compared.
    """

    promote: bool
    gain: float | None
    low: float | None
    high: float | None
    challenger: float | None
    champion: float | None
    samples: int
    reason: str
    figure: str = "accuracy"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def decide(
    challenger_correct: Sequence[bool] | np.ndarray,
    champion_correct: Sequence[bool] | np.ndarray | None,
    *,
    min_gain: float,
    confidence: float,
    seed: int,
) -> Decision:
    """Decide by accuracy, with a paired bootstrap over the evaluation samples; see `decide_gain`.

    Args:
        challenger_correct: (N), true where the sample was classified correctly.
        champion_correct: (N) the same for the champion, same samples, same order; None without a champion.
        min_gain: as a fraction (0.01 is one percentage point).

    Raises ValueError where the two are not over the same, non-empty set of samples.
    """
    ours = np.asarray(challenger_correct, dtype=bool)
    if ours.ndim != 1 or ours.size == 0:
        raise ValueError("the gate needs at least one evaluation sample")
    about: Any = {"samples": ours.size, "min_gain": min_gain, "confidence": confidence}
    if champion_correct is None:
        return decide_gain(float(ours.mean()), None, None, **about)
    theirs = np.asarray(champion_correct, dtype=bool)
    if theirs.shape != ours.shape:
        raise ValueError(
            f"the gate compares on the same samples, not {ours.size} of the challenger "
            f"with {theirs.size} of the champion"
        )
    _check(confidence)
    interval = paired_gain(ours, theirs, confidence, RESAMPLES, seed)
    return decide_gain(float(ours.mean()), float(theirs.mean()), interval, **about)


def decide_gain(
    challenger: float,
    champion: float | None,
    interval: tuple[float, float, float] | None,
    *,
    samples: int,
    min_gain: float,
    confidence: float,
    figure: str = "accuracy",
) -> Decision:
    """Promote where the gain exceeds `min_gain` and its interval lies above zero; never at a tie.

    The first model (no champion) is always promoted. A gain that is no number (nothing in the samples can
    be measured) promotes nothing.

    Args:
        challenger, champion: the figure of each over the same samples; champion None where there is none.
        interval: (gain, low, high) of challenger - champion, paired over the samples, at `confidence`
            (`confidence.paired_gain`, `confidence.paired_statistic_gain`); None without a champion.
        min_gain: in the figure's own unit; accuracy, AP and mIoU are fractions (0.01 is one point).
        figure: name of the measure, for the reason: "accuracy", "mask AP", "mIoU".

    Raises ValueError for a champion without an interval, no samples, or a confidence outside [0.5, 1).
    """
    _check(confidence)
    if samples < 1:
        raise ValueError("the gate needs at least one evaluation sample")
    if champion is None:
        why = f"there was no champion: the first model ({figure} {challenger:.4f}) becomes it"
        return Decision(True, None, None, None, _number(challenger), None, samples, why, figure)
    if interval is None:
        raise ValueError(f"the gate needs the gain in {figure} over the champion, with its interval")
    gain, low, high = interval
    about = (_number(challenger), _number(champion), samples)
    if not np.isfinite((*interval, challenger, champion)).all():
        why = f"{figure} cannot be compared on these {samples} samples: the champion stays"
        return Decision(False, _number(gain), _number(low), _number(high), *about, why, figure)
    promote = gain > min_gain and low > 0
    measured = (
        f"gain {gain:+.4f} in {figure} "
        f"(interval {low:+.4f} to {high:+.4f} at {confidence:.0%}, {samples} samples)"
    )
    if promote:
        why = f"{measured} exceeds {min_gain:.4f} and its interval excludes zero"
    elif gain == 0:
        why = f"a tie: {measured}"
    elif gain <= min_gain:
        why = f"{measured} does not exceed {min_gain:.4f}"
    else:
        why = f"{measured}: the interval does not exclude zero"
    return Decision(promote, gain, low, high, *about, why, figure)


def decide_without_labels(*, first: bool) -> Decision:
    """Decide about a model that cannot be evaluated without labels: only a first one is promoted."""
    if first:
        why = "there was no champion: the first model becomes it, though no labels evaluate it"
    else:
        why = "there are no labels to evaluate it: the champion stays"
    return Decision(first, None, None, None, None, None, 0, why)


def _check(confidence: float) -> None:
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence {confidence} must be in [0.5, 1)")


def _number(value: float) -> float | None:
    """Turn what is not finite into None: the decision is written as JSON, which has no NaN."""
    return float(value) if np.isfinite(value) else None
