import numpy as np
import pytest

from mae.data.loading.epoch_order import EpochOrder

UNEVEN = np.repeat(np.arange(5), [7, 3, 11, 1, 6])  # 28 rows


def test_an_epoch_holds_every_row_once_and_the_next_another_order():
    plan = EpochOrder(UNEVEN, seed=0, shuffle_window=2)
    orders = [plan.order(epoch) for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(28))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[1], orders[2])


def test_the_order_depends_on_seed_and_epoch_alone():
    np.testing.assert_array_equal(EpochOrder(UNEVEN, seed=3).order(5), EpochOrder(UNEVEN, seed=3).order(5))
    assert not np.array_equal(EpochOrder(UNEVEN, seed=3).order(5), EpochOrder(UNEVEN, seed=4).order(5))


def test_rows_come_from_a_window_of_few_shards_at_a_time():
    plan = EpochOrder(np.repeat(np.arange(20), 10), seed=0, shuffle_window=4)
    shards = np.repeat(np.arange(20), 10)[plan.order(0)]
    windows = shards.reshape(5, 40)
    assert all(len(set(window)) == 4 for window in windows)
    assert any(len(set(window[:10])) > 1 for window in windows)


def test_rows_scattered_over_the_table_are_planned_by_their_shard():
    shard_of = np.random.default_rng(0).integers(0, 9, 100)
    order = EpochOrder(shard_of, seed=0, shuffle_window=1).order(0)
    assert (np.diff(shard_of[order]) != 0).sum() == 8


def test_the_stream_is_the_epochs_one_after_another():
    plan = EpochOrder(UNEVEN, seed=1)
    stream = np.concatenate([plan.order(epoch) for epoch in range(4)])
    for start, stop in ((0, 0), (0, 28), (5, 9), (20, 100), (27, 29), (111, 112)):
        np.testing.assert_array_equal(plan.rows_at(start, stop), stream[start:stop])


def test_a_batch_larger_than_the_data_goes_round():
    plan = EpochOrder(np.zeros(3, dtype=int), seed=0)
    assert np.bincount(plan.rows_at(0, 12)).tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ("epochs", "batch", "steps"), [(1, 28, 1), (1, 27, 2), (10, 7, 40), (0.5, 7, 2), (0.01, 28, 1)]
)
def test_steps_show_every_sample_as_often_as_asked(epochs, batch, steps):
    assert EpochOrder(UNEVEN, seed=0).steps(epochs, batch) == steps


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(ValueError, match="at least one sample"):
        EpochOrder(np.array([], dtype=int), seed=0)
    with pytest.raises(ValueError, match="window"):
        EpochOrder(UNEVEN, seed=0, shuffle_window=0)
    with pytest.raises(ValueError, match="stream positions"):
        EpochOrder(UNEVEN, seed=0).rows_at(5, 4)
    with pytest.raises(ValueError, match="global batch"):
        EpochOrder(UNEVEN, seed=0).steps(1, 0)
