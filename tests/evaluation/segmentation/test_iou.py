"""IoU of label maps is that of one confusion matrix over all labelled pixels."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, jaccard_score

from mae.evaluation import confidence
from mae.evaluation.segmentation.iou import (
    gather_counts,
    iou_figures,
    paired_miou,
    pixel_counts,
    resampled_miou,
)
from mae.models.segmentation import IGNORE


def disturbed(labels, draw, classes):
    """A guess at a label map: shifted, with noise and one class missed."""
    guess = np.roll(labels, (3, -5), (0, 1))
    guess = np.where(draw.random(labels.shape) < 0.1, draw.integers(0, classes, labels.shape), guess)
    return np.where(guess >= classes, 0, np.where(guess == 2, 1, guess)).astype(np.int64)


def compare_with_sklearn(maps, guesses, classes):
    counts = [
        pixel_counts(torch.from_numpy(guess), torch.from_numpy(labels), classes)
        for guess, labels in zip(guesses, maps, strict=True)
    ]
    figures = iou_figures(np.stack(counts))
    truth = np.concatenate([labels[labels != IGNORE] for labels in maps])
    guess = np.concatenate([g[m != IGNORE] for g, m in zip(guesses, maps, strict=True)])
    present = np.union1d(truth, guess)
    theirs = jaccard_score(truth, guess, labels=present, average=None)
    assert [figures["IoU"][each] for each in present] == pytest.approx(theirs.tolist(), abs=1e-12)
    assert figures["IoU"].count(None) == classes - len(present)
    assert figures["mIoU"] == pytest.approx(theirs.mean(), abs=1e-12)
    assert figures["aAcc"] == pytest.approx(accuracy_score(truth, guess), abs=1e-12)
    assert figures["Acc"].count(None) == classes - len(np.unique(truth))
    known = np.isin(guess, truth)  # balanced accuracy warns of guesses at classes without labels
    if known.all():
        assert figures["mAcc"] == pytest.approx(balanced_accuracy_score(truth, guess), abs=1e-12)
    return figures


def test_real_camvid_maps_agree_with_an_independent_confusion_matrix(shared_data):
    files = sorted((shared_data / "camvid-mini" / "CamVid" / "valannot").glob("*.png"))[:6]
    draw = np.random.default_rng(0)
    raw = [np.array(Image.open(file)) for file in files]
    maps = [np.where(labels == 11, IGNORE, labels).astype(np.uint8) for labels in raw]
    guesses = [disturbed(labels, draw, 11) for labels in maps]
    figures = compare_with_sklearn(maps, guesses, 11)
    assert 0.2 < figures["mIoU"] < 0.9


def test_real_ade20k_maps_agree_with_an_independent_confusion_matrix(shared_data):
    files = sorted((shared_data / "ade20k-mini" / "annotations" / "validation").glob("*.png"))
    draw = np.random.default_rng(1)
    maps = [(np.array(Image.open(file)) - 1).astype(np.uint8) for file in files]  # 0, "other", becomes 255
    guesses = [np.roll(np.where(labels == IGNORE, 0, labels), 9, 1).astype(np.int64) for labels in maps]
    guesses[0][draw.random(guesses[0].shape) < 0.05] = 149
    figures = compare_with_sklearn(maps, guesses, 150)
    assert figures["IoU"].count(None) > 100


def test_small_counts_by_hand():
    labels = torch.tensor([[0, 0, 1], [1, IGNORE, 3]], dtype=torch.uint8)
    guess = torch.tensor([[0, 1, 1], [1, 2, 0]])
    counts = pixel_counts(guess, labels, 5)
    assert counts.tolist() == [[1, 2, 0, 0, 0], [2, 3, 0, 0, 0], [2, 2, 0, 1, 0]]
    figures = iou_figures(counts[None])
    assert figures["IoU"] == [1 / 3, 2 / 3, None, 0, None]  # class 2 is guessed under "ignore" only
    assert figures["Acc"] == [0.5, 1, None, 0, None]
    assert figures["mIoU"] == pytest.approx(1 / 3)
    assert (figures["mAcc"], figures["aAcc"]) == (0.5, 0.6)


def test_counts_of_images_add_up_to_any_resample():
    draw = np.random.default_rng(2)
    counts = drawn_counts(draw, 0.7)
    rows = draw.integers(0, 30, 30)
    assert resampled_miou(counts)(rows) == pytest.approx(iou_figures(counts[rows])["mIoU"], abs=1e-12)
    assert np.isnan(resampled_miou(counts)(np.array([7])))  # nothing is labelled there
    with pytest.raises(ValueError, match="no pixel"):
        iou_figures(counts[7:8])


def drawn_counts(draw, sure, images=30, classes=4):
    truth = np.random.default_rng(3)
    counts = []
    for number in range(images):
        labels = truth.integers(0, classes, (12, 9))
        labels[truth.random(labels.shape) < 0.1 + (number == 7)] = IGNORE
        guess = np.where(draw.random(labels.shape) < sure, labels, draw.integers(0, classes, labels.shape))
        guess[guess == IGNORE] = 0
        counts.append(pixel_counts(torch.from_numpy(guess), torch.from_numpy(labels), classes))
    return np.stack(counts)


def test_the_better_of_two_gains_surely():
    draw = np.random.default_rng(4)
    good, bad = drawn_counts(draw, 0.7), drawn_counts(draw, 0.5)
    gain, low, high = confidence.paired_statistic_gain(paired_miou(good, bad), 30, resamples=200)
    assert gain == pytest.approx(iou_figures(good)["mIoU"] - iou_figures(bad)["mIoU"])
    assert 0 < low < gain < high
    with pytest.raises(ValueError, match="same images"):
        paired_miou(good, bad[:-1])
    with pytest.raises(ValueError, match="same images"):
        paired_miou(good, bad[::-1])


def test_images_come_in_row_order():
    counts = drawn_counts(np.random.default_rng(5), 0.6, images=3)
    rows, gathered = gather_counts([4, 0, 2], list(counts))
    assert rows.tolist() == [0, 2, 4]
    assert (gathered == counts[[1, 2, 0]]).all()
    with pytest.raises(ValueError, match="no image was read"):
        gather_counts([], [])


def test_what_cannot_be_compared_is_refused():
    labels = torch.zeros(2, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"prediction of \(3, 2\)"):
        pixel_counts(labels.T, labels, 4)
    with pytest.raises(ValueError, match="label values from 0 to 4"):
        pixel_counts(labels, torch.tensor([[0, 1, 4], [0, 0, 0]]), 4)
    with pytest.raises(ValueError, match="predicted values from -1"):
        pixel_counts(labels.long() - 1, labels, 4)
    with pytest.raises(ValueError, match="counts are"):
        iou_figures(np.ones((3, 4)))
