"""A window of a resized mask is that of the whole mask, resized."""

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from mae.data.transforms import mask_resize
from mae.data.transforms.mask_resize import visible_mask


def ellipse(height, width, top, left, bottom, right):
    down, across = np.mgrid[:height, :width] + 0.5
    down, across = (2 * down - top - bottom) / (bottom - top), (2 * across - left - right) / (right - left)
    return (down**2 + across**2 < 1).astype(np.uint8)


def whole(mask, resized, window):
    """The window cut out of the whole mask as torchvision resizes it, values 0 to 255."""
    image = torch.from_numpy(mask).mul(255)[None]
    image = functional.resize(image, list(resized), InterpolationMode.BILINEAR, antialias=True)[0].numpy()
    return image[tuple(slice(begin, begin + length) for begin, length in window)]


def seen(mask, resized, window):
    found = visible_mask(coco_mask.encode(np.asfortranarray(mask)), resized, window)
    drawn = np.zeros([length for _, length in window], dtype=bool)
    if found is not None:
        part, top, left = found
        drawn[top : top + part.shape[0], left : left + part.shape[1]] = part
    return drawn


@pytest.mark.parametrize("resized", [(90, 130), (9, 13), (200, 281), (31, 7), (1, 1)])
@pytest.mark.parametrize("box", [(20, 30, 70, 61), (0, 0, 90, 130), (80, 120, 90, 130), (44, 10, 45, 90)])
def test_it_differs_from_the_whole_one_at_most_where_that_hangs_in_the_balance(resized, box):
    mask = ellipse(90, 130, *box)
    rows, columns = resized
    end = ((rows // 3, rows - rows // 3), (columns // 4, columns - columns // 4))
    for window in (((0, rows), (0, columns)), end, ((0, 1 + rows // 2), (0, 1 + columns // 3))):
        expected = whole(mask, resized, window)
        differs = seen(mask, resized, window) != (expected > 127)
        assert abs(expected[differs].astype(int) - 127).max(initial=0) <= 2
        if resized == mask.shape:
            assert not differs.any()


def test_only_the_object_and_what_it_is_mixed_with_are_resized(monkeypatch):
    def picture(part):
        sizes.append(part.shape)
        return fromarray(part)

    sizes, fromarray = [], mask_resize.Image.fromarray
    monkeypatch.setattr(mask_resize.Image, "fromarray", picture)
    mask = np.zeros((3000, 4000), np.uint8)
    mask[1000:1100, 2000:2040] = 1
    assert seen(mask, (750, 1000), ((0, 750), (0, 1000))).sum() == 25 * 10
    [(rows, columns)] = sizes
    assert rows < 150
    assert columns < 100


def test_an_object_outside_the_window_is_not_seen():
    mask = np.zeros((40, 60), np.uint8)
    mask[2:9, 3:11] = 1
    assert visible_mask(coco_mask.encode(np.asfortranarray(mask)), (80, 120), ((30, 50), (40, 80))) is None
