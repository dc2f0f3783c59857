"""The augmentation of a protocol: its row of the table decides."""

import dataclasses
import random

import numpy as np
import pytest
import torch

from mae.data.transforms.image import byol_crop, finetuning, pretraining
from mae.evaluation.classification.protocols import AUGMENTATIONS, PROTOCOLS, Recipe, make_augmentation

RECIPE = Recipe(crop_scale=(0.3, 0.7), flip=True, rand_augment="rand-m9-n2")
MEAN = (0.2, 0.5, 0.9)
IMAGE = torch.randint(0, 256, (3, 40, 52), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
EXPECTED = {
    "finetune": finetuning(24, scale=(0.3, 0.7), flip=True, rand_augment="rand-m9-n2", mean=MEAN),
    "byol": byol_crop(24, flip=True),
    "crop": pretraining(24, scale=(0.08, 1.0), flip=True),
}


def drawn(transform):
    images = []
    for seed in range(6):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        images.append(transform(IMAGE))
    return torch.stack(images)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_the_value_in_the_row_of_the_table_decides(kind, protocol):
    row = dataclasses.replace(PROTOCOLS[protocol], augmentation=kind)
    torch.testing.assert_close(
        drawn(make_augmentation(row, 24, RECIPE, MEAN)), drawn(EXPECTED[kind]), rtol=0, atol=0
    )


def test_the_augmentations_differ_and_take_their_numbers_from_the_recipe():
    row = PROTOCOLS["finetune"]
    images = [drawn(EXPECTED[kind]) for kind in AUGMENTATIONS]
    images += [drawn(make_augmentation(row, 24, RECIPE, (0, 0, 0)))]
    images += [drawn(make_augmentation(row, 24, dataclasses.replace(RECIPE, flip=False), MEAN))]
    images += [drawn(make_augmentation(row, 24, dataclasses.replace(RECIPE, crop_scale=(0.9, 1)), MEAN))]
    for number, one in enumerate(images):
        assert not any(torch.equal(one, other) for other in images[number + 1 :])
