"""Every sample counts once."""

import pytest
import torch
from torch import nn

from mae.evaluation.classification.accuracy import evaluate


class Echo(nn.Module):
    """Reads its logits out of the picture."""

    def logits(self, images):
        return images[:, 0, 0]


def batches(logits, labels, rows, sizes, skipped=0):
    at = 0
    for size in sizes:
        part = slice(at, at + size)
        yield {
            "images": logits[part][:, None, None],
            "labels": labels[part],
            "rows": rows[part],
            "skipped": skipped,
        }
        at += size


def evaluated(logits, labels, rows, sizes, classes, **settings):
    return evaluate(
        Echo(), batches(logits, labels, rows, sizes, **settings), classes, normalize=lambda images: images
    )


def test_accuracy_and_loss_are_over_samples_not_batches_and_in_row_order():
    torch.manual_seed(0)
    logits, labels = torch.randn(23, 9), torch.randint(0, 9, (23,))
    rows = torch.randperm(23) + 100
    found = evaluated(logits, labels, rows, [10, 10, 3], 9)
    right = logits.argmax(1) == labels
    assert found.count == 23
    assert found.top1 == pytest.approx(right.float().mean().item())
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert found.top5 == pytest.approx((ranks < 5).float().mean().item())
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)
    assert found.rows.tolist() == list(range(100, 123))
    assert found.correct.tolist() == right[rows.argsort()].tolist()


def test_a_sample_that_comes_twice_counts_once_and_skipped_ones_are_counted():
    logits, labels = torch.eye(3)[[0, 1, 2, 2, 2]], torch.tensor([0, 1, 0, 0, 0])
    found = evaluated(logits, labels, torch.tensor([5, 6, 7, 7, 7]), [2, 2, 1], 3, skipped=2)
    assert (found.count, found.skipped) == (3, 6)
    assert found.top1 == pytest.approx(2 / 3)
    assert found.top5 == 1.0  # the best three of three


def test_nothing_to_evaluate_and_labels_beyond_the_classes_are_errors():
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluated(torch.zeros(0, 3), torch.zeros(0), torch.zeros(0), [], 3)
    for label in (-1, 3):
        with pytest.raises(ValueError, match="3 classes"):
            evaluated(torch.eye(3)[:1], torch.tensor([label]), torch.tensor([0]), [1], 3)
