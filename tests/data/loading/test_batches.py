import random
import shutil
import threading

import numpy as np
import pytest
import torch

from mae.data.loading.batches import TooManySkipped, evaluation_batches, training_batches
from mae.data.rejection_limit import RejectionLimit
from mae.data.shards.index import Index
from mae.data.transforms.image import evaluation, pretraining

SETTINGS = {"global_batch": 12, "start": 0, "stop": 9, "seed": 0, "noise_shape": (6,)}
MORE_WORKERS_THAN_CORES = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def batches(split, **options):
    return list(training_batches(split, pretraining(16), **{**SETTINGS, **options}))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)


def global_batches(parts, world):
    """Merge the batches of all ranks, step by step, in stream order."""
    steps = []
    for step in zip(*parts, strict=True):
        merged = {}
        for name in ("images", "labels", "rows", "noise"):
            whole = torch.empty(
                len(step) * len(step[0][name]), *step[0][name].shape[1:], dtype=step[0][name].dtype
            )
            for rank, part in enumerate(step):
                whole[rank::world] = part[name]
            merged[name] = whole
        steps.append(merged | {"skipped": 0})
    return steps


@pytest.fixture(scope="module")
def split(small_index):
    return small_index.split("train")


@pytest.fixture(scope="module")
def alone(split):
    return batches(split)


def test_a_batch_holds_what_it_says(split, alone):
    for batch in alone:
        assert batch["images"].shape == (12, 3, 16, 16)
        assert batch["images"].dtype == torch.uint8
        assert batch["noise"].shape == (12, 6)
        assert batch["skipped"] == 0
        np.testing.assert_array_equal(batch["labels"].numpy(), split.labels[batch["rows"].numpy()])


def test_no_sample_is_lost_or_doubled_and_every_epoch_has_its_own_order(split, alone):
    stream = torch.cat([batch["rows"] for batch in alone]).numpy()
    epochs = stream[: 2 * 41].reshape(2, 41)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(41))
    assert not np.array_equal(*epochs)


def test_the_same_sample_is_augmented_differently_in_the_next_epoch(split):
    one = batches(split, rows=np.array([7]), global_batch=2, stop=1)[0]
    assert one["rows"].tolist() == [7, 7]
    assert not torch.equal(one["images"][0], one["images"][1])
    assert not torch.equal(one["noise"][0], one["noise"][1])


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_hold_the_batches_of_one_process_in_equal_steps(split, alone, world):
    parts = [batches(split, rank=rank, world=world) for rank in range(world)]
    assert_same(global_batches(parts, world), alone)


@MORE_WORKERS_THAN_CORES
def test_two_nodes_of_two_ranks_of_three_workers_hold_them_too(split):
    shorter = {"stop": 4}
    parts = [batches(split, rank=rank, world=4, workers=3, **shorter) for rank in range(4)]
    assert_same(global_batches(parts, 4), batches(split, **shorter))


@MORE_WORKERS_THAN_CORES
def test_more_workers_than_shards_give_the_same_batches(split, alone):
    few = np.flatnonzero(split.shard_of < 2)
    assert_same(batches(split, rows=few, workers=5, stop=4), batches(split, rows=few, stop=4))


def test_workers_started_beside_threads_give_the_same_batches(split, alone):
    release = threading.Event()
    beside = threading.Thread(target=release.wait)
    beside.start()
    try:
        assert_same(batches(split, workers=2, stop=4), alone[:4])
    finally:
        release.set()
        beside.join()


def test_any_step_can_be_resumed_at(split, alone):
    for start in (1, 4, 8):
        assert_same(batches(split, start=start), alone[start:])
    assert batches(split, start=9) == []


def test_accumulation_cuts_the_same_step_into_micro_batches(split, alone):
    micro = batches(split, accumulate=3)
    assert len(micro) == 27
    for name in ("images", "rows", "noise"):
        joined = [torch.cat([part[name] for part in micro[at : at + 3]]) for at in range(0, 27, 3)]
        torch.testing.assert_close(joined, [batch[name] for batch in alone], rtol=0, atol=0)


def test_another_attempt_draws_other_values_for_the_same_samples(split, alone):
    again = batches(split, attempt=1)
    for one, other in zip(again, alone, strict=True):
        torch.testing.assert_close(one["rows"], other["rows"])
        assert not torch.equal(one["images"], other["images"])
        assert not torch.equal(one["noise"], other["noise"])


def test_the_callers_random_state_is_left_alone(split):
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    stream = training_batches(split, pretraining(16), **SETTINGS)
    next(stream)
    torch.testing.assert_close(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    np.testing.assert_array_equal(np.random.get_state()[1], states[2])


def test_the_callers_random_state_does_not_change_the_batches(split, alone):
    torch.manual_seed(123)
    np.random.seed(123)
    random.seed(123)
    assert_same(batches(split, stop=2), alone[:2])


def test_views_of_a_sample_come_as_a_list(split):
    for options in ({"transform": pretraining(16), "views": 2}, {"transform": _two_sizes}):
        transform = options.pop("transform")
        batch = next(training_batches(split, transform, **SETTINGS, **options))
        assert len(batch["images"]) == 2
        assert batch["images"][0].shape == (12, 3, 16, 16)
        assert not torch.equal(*(view.float().mean((2, 3)) for view in batch["images"]))


def _two_sizes(image):
    whole = pretraining(16)(image)
    return whole, whole[:, ::2, ::2]


def test_what_does_not_divide_is_refused_at_once(split):
    for wrong in ({"world": 5}, {"accumulate": 5}, {"world": 2, "rank": 2}, {"global_batch": 0}):
        with pytest.raises(ValueError, match=r"divide|rank"):
            training_batches(split, pretraining(16), **{**SETTINGS, **wrong})


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (2, 0), (4, 0), (1, 2)])
def test_evaluation_counts_every_sample_once_over_all_ranks(small_index, world, workers):
    split = small_index.split("val")
    rows = []
    for rank in range(world):
        mine = list(
            evaluation_batches(split, evaluation(16), batch_size=2, rank=rank, world=world, workers=workers)
        )
        rows += [batch["rows"] for batch in mine]
        for batch in mine:
            np.testing.assert_array_equal(batch["labels"].numpy(), split.labels[batch["rows"].numpy()])
    assert sorted(torch.cat(rows).tolist()) == list(range(9))


def test_evaluation_of_some_rows_keeps_their_order(small_index):
    split = small_index.split("val")
    rows = np.array([5, 2, 8])
    got = torch.cat(
        [batch["rows"] for batch in evaluation_batches(split, evaluation(16), batch_size=2, rows=rows)]
    )
    assert got.tolist() == [5, 2, 8]


@pytest.fixture
def damaged(tmp_path, small_index):
    """The small index with two training images and one of validation overwritten after it was written."""
    shutil.copytree(small_index.directory, tmp_path / "copy")
    index = Index.open(tmp_path / "copy")
    for name, rows in (("train", (3, 4)), ("val", (1,))):
        table = np.load(index.directory / f"tars/{name}.samples.npy")
        for row in rows:
            shard = index.directory / f"tars/{name}-{table['shard'][row]:06d}.tar"
            with shard.open("r+b") as file:
                file.seek(int(table["offset"][row]))
                file.write(bytes(int(table["size"][row])))
    return index


@pytest.mark.parametrize("workers", [0, 2])
def test_an_undecodable_sample_gives_its_place_to_the_next_and_is_counted(damaged, small_index, workers):
    got = batches(damaged.split("train"), max_skipped=RejectionLimit(99), workers=workers)
    whole = batches(small_index.split("train"))
    skipped = 0
    for one, other in zip(got, whole, strict=True):
        expected = [{3: 5, 4: 5}.get(row, row) for row in other["rows"].tolist()]
        assert one["rows"].tolist() == expected
        torch.testing.assert_close(one["noise"], other["noise"])
        assert one["skipped"] == sum({3: 2, 4: 1}.get(row, 0) for row in other["rows"].tolist())
        skipped += one["skipped"]
    assert skipped >= 6


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_undecodable_samples_are_an_error_naming_sample_and_shard(damaged, workers):
    key = damaged.split("train").meta(3)["key"]
    with pytest.raises(
        TooManySkipped,
        match=rf"shard_detect\.max_rejected.*sample (0+3|0+4|{key}) \(train/.*train-000000\.tar",
    ):
        batches(
            damaged.split("train"),
            workers=workers,
            max_skipped=RejectionLimit(0, "shard_detect.max_rejected"),
        )
    with pytest.raises(TooManySkipped, match=r"^1 samples cannot be decoded, 0 are allowed; last: sample"):
        batches(damaged.split("train"), workers=workers)


def test_evaluation_leaves_undecodable_samples_out_and_counts_them(damaged):
    split = damaged.split("val")
    for batch_size in (4, 1):
        got = list(
            evaluation_batches(split, evaluation(16), batch_size=batch_size, max_skipped=RejectionLimit(0.12))
        )
        assert torch.cat([batch["rows"] for batch in got]).tolist() == [0, 2, 3, 4, 5, 6, 7, 8]
    with pytest.raises(TooManySkipped, match=r"val-000000\.tar"):
        list(evaluation_batches(split, evaluation(16), batch_size=4))
