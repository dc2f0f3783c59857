import numpy as np
import pytest

from mae.data.shards.shard_plan import cut


@pytest.mark.parametrize(("count", "size"), [(1, 10**9), (7, 10**9), (1000, 500), (9, 300), (1000, 1)])
def test_cuts_keep_both_bounds_lose_nothing_and_are_of_like_size(count, size):
    sizes = np.random.default_rng(0).integers(1, 120, 101)
    ends = cut(sizes, count, size)
    parts = np.split(sizes, ends[:-1])
    assert ends[-1] == len(sizes)
    assert all(len(part) <= count and (part.sum() <= size or len(part) == 1) for part in parts)
    if len(parts) > 1:
        assert len(parts[-1]) >= len(parts[0]) // 2
