"""Pages show the targets and the predictions as they are, on images of any size."""

import tracemalloc

import numpy as np
import pytest
import torch
from evaluation.detection.detections import encode
from PIL import Image

from mae.report.plots.picture_page import GAP, GREY, PAPER, STRIP, colour_of
from mae.report.plots.predictions import detection_panel, segmentation_panel

NAMES = ["zero", "one", "two"]
WHITE = np.full((3, 40, 60), 255, np.uint8)
EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}


def square(**values):
    target = {"bbox": [10, 12, 20, 16], "category": 1, "iscrowd": 0}
    return target | {"segmentation": [[10, 12, 30, 12, 30, 28, 10, 28]]} | values


def found(*scores):
    mask = np.zeros((40, 60), np.uint8)
    mask[12:28, 10:30] = 1
    return {
        "boxes": torch.tensor([[10.0, 12, 30, 28]] * len(scores)),
        "labels": torch.tensor([2] * len(scores)),
        "scores": torch.tensor(scores),
        "masks": [encode(mask)] * len(scores),
    }


def cells(path, side, columns):
    page = np.array(Image.open(path).convert("RGB"))
    tops = slice(GAP + STRIP, None)
    return [
        page[tops, GAP + n * (side + GAP) : GAP + n * (side + GAP) + side][: side * 2 // 3]
        for n in range(columns)
    ]


def test_boxes_and_masks_are_drawn_at_their_coordinates(tmp_path):
    path = tmp_path / "page.png"
    detection_panel(
        path, [(torch.from_numpy(WHITE), {"annotations": [square()]}, found(0.9))], NAMES, side=240
    )
    for cell, label in zip(cells(path, 240, 2), (1, 2), strict=True):
        colour = np.array(colour_of(label))
        assert (cell[112 - 1, 50:110] == colour).all()  # the box's lower edge, four page pixels to one
        assert (cell[60:100, 119] == colour).all()
        inside = cell[60:100, 50:110].reshape(-1, 3)
        assert (abs(inside - (255 * 0.55 + 0.45 * colour)) <= 1).all()
        assert (cell[125:, :] == 255).all()
        assert (cell[60:, 130:] == 255).all()


def test_weak_predictions_are_counted_and_not_drawn(tmp_path):
    path = tmp_path / "page.png"
    sample = (WHITE, {"annotations": []}, found(0.4, 0.1))
    detection_panel(path, [sample], NAMES, threshold=0.5, side=240)
    assert (np.stack(cells(path, 240, 2)) == 255).all()
    detection_panel(path, [sample], NAMES, threshold=0.2, side=240)
    assert (cells(path, 240, 2)[1] != 255).any()


def test_a_crowd_is_grey_below_the_objects(tmp_path):
    path = tmp_path / "page.png"
    crowd = square(iscrowd=1, segmentation={"size": [40, 60], "counts": [0, 2400]}, bbox=[0, 0, 60, 40])
    detection_panel(path, [(WHITE, {"annotations": [square(), crowd]}, EMPTY)], NAMES, side=240)
    cell = cells(path, 240, 2)[0]
    assert (cell[140, 20:200] == np.round(255 * 0.55 + 0.45 * np.array(GREY))).all()
    assert (cell[60:100, 119] == colour_of(1)).all()


@pytest.mark.parametrize(
    "shape",
    [(3, 1, 300), (3, 700, 1), (1, 33, 47), (3, 2000, 1500)],
    ids=lambda shape: "x".join(map(str, shape)),
)
def test_any_size_is_drawn(tmp_path, shape):
    image = torch.zeros(shape, dtype=torch.uint8)
    height, width = shape[1:]
    target = {"annotations": [square(bbox=[0, 0, width, height], segmentation=None)]}
    boxes = torch.tensor([[-5.0, -5, width + 9, height + 9], [width - 1, height - 1, width, height]])
    guess = {"boxes": boxes, "labels": torch.tensor([0, 2]), "scores": torch.ones(2)}
    detection_panel(tmp_path / "boxes.png", [(image, target, guess)] * 5, NAMES, side=200)
    labels = torch.full((height, width), 255, dtype=torch.uint8)
    segmentation_panel(tmp_path / "maps.png", [(image, labels, labels.long())], NAMES, side=200)
    for name in ("boxes.png", "maps.png"):
        with Image.open(tmp_path / name) as page:
            assert page.width < 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.png", "maps.png"]


def test_masks_are_decoded_one_at_a_time_and_no_larger_than_they_are(tmp_path):
    image, corners = torch.zeros(3, 1500, 2000, dtype=torch.uint8), [10, 12, 200, 12, 200, 160, 10, 160]
    target = {"annotations": [square(bbox=[10, 12, 190, 148], segmentation=[corners])] * 60}
    detection_panel(tmp_path / "page.png", [(image, target, EMPTY)], NAMES)  # imports what is imported late
    tracemalloc.start()
    detection_panel(tmp_path / "page.png", [(image, target, EMPTY)], NAMES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 * 1500 * 2000, "half of the masks at once"


def test_maps_have_their_classes_colours_and_a_legend_of_those_that_occur(tmp_path):
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 30:], labels[30:] = 1, 255
    predicted = torch.from_numpy(np.where(labels == 255, 0, labels)).long()
    segmentation_panel(tmp_path / "page.png", [(WHITE, torch.from_numpy(labels), predicted)], NAMES, side=240)
    _, target, guess = cells(tmp_path / "page.png", 240, 3)
    assert (target[10, 10] == colour_of(0)).all()
    assert (target[10, 200] == colour_of(1)).all()
    assert (target[140, 200] == GREY).all()
    assert (guess[140, 200] == colour_of(0)).all()
    page = np.array(Image.open(tmp_path / "page.png").convert("RGB"))
    legend = {tuple(colour) for colour in page[GAP + STRIP + 160 + GAP :].reshape(-1, 3).tolist()}
    assert {GREY, colour_of(0), colour_of(1), PAPER} <= legend
    assert colour_of(2) not in legend


def test_a_picture_without_a_target_shows_the_prediction_alone_and_many_classes_are_counted(tmp_path):
    predicted = np.arange(2400).reshape(40, 60) % 150
    names = [f"class {n}" for n in range(150)]
    segmentation_panel(tmp_path / "page.png", [(WHITE, None, predicted)], names)
    with Image.open(tmp_path / "page.png") as page:
        assert page.width == 2 * (320 + GAP) + GAP


def test_the_same_pictures_are_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        detection_panel(tmp_path / name, [(WHITE, {"annotations": [square()]}, found(0.9, 0.7))], NAMES)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_first_classes_have_colours_apart():
    colours = np.array([colour_of(label) for label in range(20)], dtype=int)
    apart = abs(colours[:, None] - colours[None]).sum(axis=2) + 999 * np.eye(20, dtype=int)
    assert apart.min() > 40


def test_inputs_that_cannot_be_drawn_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one sample"):
        detection_panel(tmp_path / "page.png", [], NAMES)
    with pytest.raises(ValueError, match="uint8"):
        detection_panel(tmp_path / "page.png", [(WHITE / 255, {"annotations": []}, EMPTY)], NAMES)
    with pytest.raises(ValueError, match=r"a map of \(60, 40\)"):
        segmentation_panel(tmp_path / "page.png", [(WHITE, None, np.zeros((60, 40), int))], NAMES)
    assert list(tmp_path.iterdir()) == []
