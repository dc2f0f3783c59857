"""Supervised pretraining: a linear layer on the features, and the labels."""

import pytest
import torch
from methods.small import small_encoder, some_images
from torch.testing import assert_close

from mae.methods.supervised import Supervised


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_the_loss_is_smoothed_cross_entropy_of_the_pooled_features(pool):
    method = Supervised(small_encoder(), num_classes=5, pool=pool, smoothing=0.2).double()
    images, labels = some_images(), torch.tensor([0, 4, 2])
    tokens = method.encoder.forward_features(images)
    features = tokens[:, 0] if pool == "token" else tokens[:, 1:].mean(1)
    chances = (features @ method.head.weight.T + method.head.bias).log_softmax(1)
    expected = -(0.8 * chances[torch.arange(3), labels] + 0.2 * chances.mean(1)).mean()
    found = method(images, labels)
    assert_close(found["loss"], expected)
    assert found["top1"].item() == pytest.approx((chances.argmax(1) == labels).double().mean().item())


def test_another_pool_is_refused():
    with pytest.raises(ValueError, match="pool 'max'"):
        Supervised(small_encoder(), pool="max")
