"""Whether a challenger takes the champion's place: a decision about numbers, apart from any registry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mae.confidence import paired_gain

RESAMPLES = 10_000


@dataclass(frozen=True)
class Decision:
    """`gain` = challenger's accuracy - champion's, with its interval; None where nothing was compared."""

    promote: bool
    gain: float | None
    low: float | None
    high: float | None
    challenger: float | None
    champion: float | None
    samples: int
    reason: str

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
    """Paired bootstrap over the evaluation samples.

    Promotes where the gain exceeds `min_gain` and the interval at `confidence` lies above zero; the first
    model (no champion) always; a tie never.

    Args:
        challenger_correct: (N) whether each sample was classified correctly.
        champion_correct: (N) the same for the champion, same samples, same order; None without a champion.
        min_gain: as a fraction (0.01 is one percentage point).

    Raises ValueError where the two are not over the same, non-empty set of samples.
    """
    ours = np.asarray(challenger_correct, dtype=bool)
    if ours.ndim != 1 or ours.size == 0:
        raise ValueError("the gate needs at least one evaluation sample")
    accuracy = float(ours.mean())
    if champion_correct is None:
        why = f"there was no champion: the first model (accuracy {accuracy:.4f}) becomes it"
        return Decision(True, None, None, None, accuracy, None, ours.size, why)
    theirs = np.asarray(champion_correct, dtype=bool)
    if theirs.shape != ours.shape:
        raise ValueError(
            f"the gate compares on the same samples, not {ours.size} of the challenger "
            f"with {theirs.size} of the champion"
        )
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence {confidence} must be in [0.5, 1)")
    gain, low, high = paired_gain(ours, theirs, confidence, RESAMPLES, seed)
    promote = gain > min_gain and low > 0
    measured = (
        f"gain {gain:+.4f} (interval {low:+.4f} to {high:+.4f} at {confidence:.0%}, {ours.size} samples)"
    )
    if promote:
        why = f"{measured} exceeds {min_gain:.4f} and its interval excludes zero"
    elif gain == 0:
        why = f"a tie: {measured}"
    elif gain <= min_gain:
        why = f"{measured} does not exceed {min_gain:.4f}"
    else:
        why = f"{measured}: the interval does not exclude zero"
    return Decision(promote, gain, low, high, accuracy, float(theirs.mean()), ours.size, why)


def unjudged(*, first: bool) -> Decision:
    """The decision about an encoder without a classifier: there are no labels to measure a gain with."""
    if first:
        why = "there was no champion: the first model becomes it, though there are no labels to judge it by"
    else:
        why = "there are no labels to judge it by: the champion stays"
    return Decision(first, None, None, None, None, None, 0, why)
