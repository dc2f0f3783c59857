"""Bootstrap intervals cover the true value as often as they claim."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from mae.evaluation.confidence import (
    bootstrap_interval,
    paired_gain,
    paired_statistic_gain,
    statistic_interval,
)


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


def test_intervals_cover_the_true_value_about_as_often_as_they_claim():
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


def test_a_mean_as_a_statistic_gets_the_intervals_of_a_mean():
    draw = np.random.default_rng(5)
    ours, theirs = draw.normal(0.4, 1, 300), draw.normal(0, 1, 300)
    wanted = bootstrap_interval(ours, resamples=3000)
    found = statistic_interval(lambda rows: ours[rows].mean(), 300, resamples=3000)
    assert found == pytest.approx(wanted, abs=0.03)
    wanted = paired_gain(ours, theirs, resamples=3000)
    found = paired_statistic_gain(
        lambda rows: (ours[rows].mean(), theirs[rows].mean()), 300, resamples=3000, seed=1
    )
    assert found == pytest.approx(wanted, abs=0.03)
    assert found[0] == pytest.approx(wanted[0], abs=1e-12)


def test_a_statistic_sees_as_many_images_as_there_are_in_order_and_the_seed_decides_which():
    seen = []

    def statistic(rows):
        seen.append(rows)
        return float(rows.sum()), 0.0

    first = paired_statistic_gain(statistic, 7, resamples=5, seed=3)
    assert seen[0].tolist() == list(range(7))
    assert len(seen) == 6
    assert all(len(rows) == 7 and (np.diff(rows) >= 0).all() and rows.max() < 7 for rows in seen)
    assert paired_statistic_gain(statistic, 7, resamples=5, seed=3) == first


def test_resamples_without_a_value_are_left_out_and_senseless_statistics_refused():
    low, high = statistic_interval(lambda rows: 2.0 if 0 in rows else np.nan, 2, resamples=50)
    assert (low, high) == (2, 2)
    with pytest.raises(ValueError, match="every resample"):
        statistic_interval(lambda rows: np.nan, 3, resamples=5)
    with pytest.raises(ValueError, match="over all images"):
        paired_statistic_gain(lambda rows: (np.nan, 1.0), 3, resamples=5)
    with pytest.raises(ValueError, match="needs images"):
        statistic_interval(lambda rows: 1.0, 0)
    with pytest.raises(ValueError, match="confidence"):
        statistic_interval(lambda rows: 1.0, 3, confidence=95)
