"""Training batches made on the device: erased, mixed, smoothed."""

import pytest
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from mae.data.transforms.image import Normalize
from mae.evaluation.classification.mixing import Mixing
from mae.evaluation.classification.protocols import Recipe

CLASSES = 4
NORMALIZE = Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
PLAIN = Recipe(random_erasing=0, mixup=0, cutmix=0)


@pytest.mark.parametrize("count", [8, 7, 1])
def test_mixed_targets_are_smoothed_distributions_also_for_an_odd_batch(count):
    mixing = Mixing(NORMALIZE, Recipe(), CLASSES, torch.device("cpu"))
    assert mixing.smoothing == 0
    images = torch.randint(0, 255, (count, 3, 16, 16), dtype=torch.uint8)
    mixed, targets = mixing(images, torch.arange(count) % CLASSES)
    torch.testing.assert_close(targets.sum(1), torch.ones(count))
    assert (targets >= 0.1 / CLASSES - 1e-7).all()
    if count % 2:
        assert targets[-1].max().item() == pytest.approx(0.9 + 0.1 / CLASSES)
    assert mixed.shape == images.shape
    assert mixed.dtype == torch.float32


def test_without_mixing_the_labels_stay_and_the_loss_smooths():
    mixing = Mixing(NORMALIZE, PLAIN, CLASSES, torch.device("cpu"))
    images, labels = torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.arange(4)
    normed, targets = mixing(images, labels)
    assert targets is labels
    assert mixing.smoothing == 0.1
    torch.testing.assert_close(normed, NORMALIZE(images))
    erasing = Mixing(
        NORMALIZE,
        Recipe(random_erasing=1.0, mixup=0, cutmix=0),
        CLASSES,
        torch.device("cpu"),
    )
    assert not torch.equal(erasing(images, labels)[0], normed)
    probe = Mixing(
        NORMALIZE,
        Recipe(random_erasing=1.0),
        CLASSES,
        torch.device("cpu"),
        mixes=False,
    )
    torch.testing.assert_close(probe(images, labels)[0], normed)
    assert probe.smoothing == 0
