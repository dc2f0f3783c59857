"""Tokens kept per shard are those of each row, and none is computed twice."""

from types import SimpleNamespace

import numpy as np
import pytest

from mae.data.loading.token_cache import CachedTokens, cache_tokens, missing

SHARDS = ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
SPLIT = SimpleNamespace(shards=SHARDS, shard_of=np.array([0, 0, 0, 1, 1, 2, 2, 2]))
CODES = np.arange(8 * 4).reshape(8, 4) * 2000  # beyond 15 bits


def batches(rows, size=2):
    for at in range(0, len(rows), size):
        yield rows[at : at + size], CODES[rows[at : at + size]]


def test_every_row_gets_its_own_tokens_back_in_any_order(tmp_path):
    written = list(cache_tokens(tmp_path, SPLIT, batches(missing(tmp_path, SPLIT))))
    assert written == SHARDS
    rows = np.array([7, 0, 4, 4, 2])
    found = CachedTokens(tmp_path, SPLIT).of(rows)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, CODES[rows])


def test_an_interrupted_keeping_goes_on_at_the_first_unfinished_shard(tmp_path):
    keeping = cache_tokens(tmp_path, SPLIT, batches(missing(tmp_path, SPLIT)))
    assert next(keeping) == SHARDS[0]
    keeping.close()
    left = missing(tmp_path, SPLIT)
    assert left.tolist() == [3, 4, 5, 6, 7]
    assert list(cache_tokens(tmp_path, SPLIT, batches(left))) == SHARDS[1:]
    np.testing.assert_array_equal(CachedTokens(tmp_path, SPLIT).of(np.arange(8)), CODES)
    assert len(missing(tmp_path, SPLIT)) == 0


def test_ranks_share_the_shards(tmp_path):
    assert [missing(tmp_path, SPLIT, rank, 2).tolist() for rank in (0, 1)] == [[0, 1, 2, 5, 6, 7], [3, 4]]


def test_what_could_not_be_decoded_is_left_out_and_the_rest_stays_in_its_place(tmp_path):
    list(cache_tokens(tmp_path, SPLIT, batches(np.array([0, 2, 3, 5, 6, 7]))))
    np.testing.assert_array_equal(CachedTokens(tmp_path, SPLIT).of(np.array([2, 3, 5])), CODES[[2, 3, 5]])


def test_a_shard_without_tokens_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-000001\.npy"):
        CachedTokens(tmp_path, SPLIT).of(np.array([3]))
