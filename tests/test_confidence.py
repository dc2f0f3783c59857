"""Intervals mean what they say."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from mae.confidence import bootstrap_interval, paired_gain


@pytest.mark.parametrize("kind", ["right or wrong", "real"])
def test_the_interval_agrees_with_scipys_bootstrap(kind):
    draw = np.random.default_rng(0)
    values = (draw.random(400) < 0.8) if kind == "right or wrong" else draw.normal(2, 3, 400)
    low, high = bootstrap_interval(values, 0.9, resamples=4000, seed=1)
    theirs = bootstrap(
        (values.astype(float),),
        np.mean,
        confidence_level=0.9,
        n_resamples=4000,
        method="percentile",
        rng=draw,
    ).confidence_interval
    tolerance = 0.15 * (high - low)
    assert low == pytest.approx(theirs.low, abs=tolerance)
    assert high == pytest.approx(theirs.high, abs=tolerance)
    assert (low, high) == bootstrap_interval(values, 0.9, resamples=4000, seed=1)


def test_intervals_cover_the_truth_about_as_often_as_they_claim():
    draw = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(draw.random(150) < 0.7, 0.9, resamples=400, seed=trial)
        covered += low <= 0.7 <= high
    assert 0.83 <= covered / 200 <= 0.97


def test_a_paired_gain_is_surer_than_two_single_ones_and_a_tie_holds_zero():
    draw = np.random.default_rng(2)
    champion = draw.random(1000) < 0.7
    candidate = champion | (draw.random(1000) < 0.05)
    gain, low, high = paired_gain(candidate, champion)
    assert gain == pytest.approx(candidate.mean() - champion.mean())
    assert 0 < low < gain < high
    assert paired_gain(champion, champion) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="same samples"):
        paired_gain(champion, champion[1:])


def test_senseless_bootstraps_are_refused():
    with pytest.raises(ValueError, match="row of values"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1.0], confidence=95)
