"""Samples with targets: what belongs to an image goes through the same transform and the same batch."""

import numpy as np
import pytest
import torch

from mae.data.loading.batches import evaluation_batches, training_batches

SETTINGS = {"global_batch": 6, "start": 0, "stop": 3, "seed": 0}


def read_target(split, row):
    return {"row": row, "name": f"{split.name} {row}", "boxes": torch.full((row % 3, 4), float(row))}


def crop(image, target):
    """A crop of a width that is drawn, so images differ; and the target has it, too."""
    width = int(torch.randint(8, 12, ()))
    return image[:, :8, :width], {**target, "width": width, "mask": image[0, :8, :width] > 100}


def square(image, target):
    return image[:, :8, :8], target


def batches(split, transform=crop, **options):
    return list(training_batches(split, transform, target=read_target, **{**SETTINGS, **options}))


@pytest.fixture(scope="module")
def split(small_index):
    return small_index.split("train")


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_comes_with_the_target_of_its_row(split, workers):
    for batch in batches(split, workers=workers):
        assert len(batch["images"]) == len(batch["targets"]) == 6
        for image, target, row in zip(batch["images"], batch["targets"], batch["rows"].tolist(), strict=True):
            assert target["row"] == row
            assert target["name"] == f"train {row}"
            assert image.shape == (3, 8, target["width"])
            torch.testing.assert_close(target["mask"], image[0] > 100)
            torch.testing.assert_close(target["boxes"], torch.full((row % 3, 4), float(row)))


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_one_size_are_stacked(split, workers):
    for batch in batches(split, square, workers=workers, noise_shape=(4,)):
        assert batch["images"].shape == (6, 3, 8, 8)
        assert batch["noise"].shape == (6, 4)


def test_the_number_of_workers_changes_no_target(split):
    for one, other in zip(batches(split), batches(split, workers=2), strict=True):
        torch.testing.assert_close(one["images"], other["images"], rtol=0, atol=0)
        for ours, theirs in zip(one["targets"], other["targets"], strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in ours.items():
                assert torch.equal(value, theirs[name]) if torch.is_tensor(value) else value == theirs[name]


def test_what_a_worker_sends_takes_one_piece_of_memory_for_all_targets(split):
    batch = batches(split, workers=2, stop=1)[0]
    tensors = [*batch["images"], *(target["boxes"] for target in batch["targets"])]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_brings_targets_in_order(small_index, workers):
    rows = np.array([5, 2, 8])
    stream = evaluation_batches(
        small_index.split("val"), crop, batch_size=2, rows=rows, target=read_target, workers=workers
    )
    assert [target["row"] for batch in stream for target in batch["targets"]] == [5, 2, 8]


def test_several_views_of_a_sample_with_a_target_are_refused(split):
    with pytest.raises(ValueError, match="2 views"):
        batches(split, views=2)
