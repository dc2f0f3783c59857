"""The order of samples, the plan of shards and annotations hold for any input that hypothesis draws."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mae.data.loading.epoch_order import EpochOrder
from mae.data.shards.shard_plan import cut
from mae.data.sources.base import SourceError
from mae.data.sources.coco_json import annotations_by_image, category_names, read_tables

shards = st.lists(st.integers(0, 9), min_size=1, max_size=60).map(np.array)
sizes = st.lists(st.integers(1, 1000), max_size=60)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(shards, st.integers(0, 2**32), st.integers(1, 12), st.integers(0, 3))
def test_an_epoch_has_every_row_once(shard_of_row, seed, window, epoch):
    order = EpochOrder(shard_of_row, seed=seed, shuffle_window=window)
    assert sorted(order.order(epoch)) == list(range(len(shard_of_row)))


@given(shards, st.integers(0, 2**32), st.integers(1, 4), st.integers(1, 8), st.integers(0, 20), st.data())
def test_any_division_of_the_stream_is_the_stream(shard_of_row, seed, world, each, steps, data):
    """Begin at any step, on any number of ranks: together they take what one process takes from the start."""
    batch = world * each
    whole = EpochOrder(shard_of_row, seed=seed).rows_at(0, steps * batch)
    start = data.draw(st.integers(0, steps))
    resumed = EpochOrder(shard_of_row, seed=seed)
    for step in range(start, steps):
        rows = resumed.rows_at(step * batch, (step + 1) * batch)
        ranks = np.stack([rows[rank::world] for rank in range(world)], axis=1).ravel()
        assert np.array_equal(ranks, whole[step * batch : (step + 1) * batch])


@given(sizes, st.integers(1, 20), st.integers(1, 3000))
def test_shards_hold_every_image_within_both_bounds_and_are_as_few_as_can_be(sizes, max_count, max_bytes):
    ends = cut(np.array(sizes, dtype=np.int64), max_count, max_bytes)
    parts = [sizes[start:end] for start, end in zip([0, *ends][:-1], ends, strict=True)]
    assert [size for part in parts for size in part] == sizes
    for part in parts:
        assert len(part) == 1 or (len(part) <= max_count and sum(part) <= max_bytes)
    fewest, room = 0, (0, 0)
    for size in sizes:  # in this order no plan is shorter than one that fills each shard before the next
        count, used = room
        fits = count and count < max_count and used + size <= max_bytes
        fewest += not fits
        room = (count + 1, used + size) if fits else (1, size)
    assert len(parts) == fewest


def rows(**fields):
    """Objects that mostly have the right fields, with values of any kind."""
    return st.lists(st.fixed_dictionaries({}, optional=fields), max_size=4)


tables = st.fixed_dictionaries(
    {},
    optional={
        "images": plain
        | rows(id=st.integers(0, 3) | plain, file_name=st.just("a.jpg") | plain, width=plain, height=plain),
        "categories": plain | rows(id=st.integers(0, 3) | plain, name=st.text() | plain),
        "annotations": plain
        | rows(
            id=plain,
            image_id=st.integers(0, 3) | plain,
            category_id=st.integers(0, 3) | plain,
            bbox=st.lists(st.floats() | plain, max_size=5) | plain,
            iscrowd=plain,
            segmentation=plain,
        ),
    },
)


@given(tables | plain)
def test_annotations_of_any_form_are_read_whole_or_refused_by_the_files_name(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "instances.json"
    file.write_text(json.dumps(content))
    try:
        about = read_tables(file)
        found = annotations_by_image(file, about, set(category_names(file, about["categories"])))
    except SourceError as error:
        message = str(error)
    else:
        assert sum(map(len, found.values())) == len(about["annotations"])
        return
    assert str(file) in message
