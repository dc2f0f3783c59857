"""The pyramid's levels have the strides that it says; regions are pooled from them without a shift."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.models.detection.image_list import ImageList

from mae.models.detection.feature_pyramid import SCALES, SimpleFeaturePyramid
from mae.models.detection.mask_rcnn import Anchors, pool_regions


@pytest.mark.parametrize(
    ("grid", "levels"),
    [
        ((8, 8), [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]),
        ((5, 3), [(20, 12), (10, 6), (5, 3), (3, 2), (2, 1)]),
        ((1, 1), [(4, 4), (2, 2), (1, 1), (1, 1), (1, 1)]),
    ],
)
def test_the_levels_have_a_quarter_to_four_times_the_patchs_stride(grid, levels):
    maps = SimpleFeaturePyramid(32, channels=16)(torch.randn(2, 32, *grid))
    assert list(maps) == ["0", "1", "2", "3", "pool"]
    assert [tuple(level.shape) for level in maps.values()] == [(2, 16, *level) for level in levels]


def test_every_level_is_normalised_over_its_channels():
    maps = SimpleFeaturePyramid(32, channels=64)(100 * torch.randn(1, 32, 4, 4))
    for level in maps.values():
        assert_close(level.mean(1), torch.zeros(level.shape[0], *level.shape[2:]), atol=1e-4, rtol=0)
        assert_close(level.var(1, unbiased=False), torch.ones(1, *level.shape[2:]), atol=1e-2, rtol=0)


def test_the_convolutions_are_vitdets():
    shapes = [
        tuple(value.shape)
        for name, value in SimpleFeaturePyramid(768).named_parameters()
        if value.ndim == 4 and name.startswith("levels.0")
    ]
    assert shapes == [(768, 384, 2, 2), (384, 192, 2, 2), (256, 192, 1, 1), (256, 256, 3, 3)]


def test_a_width_that_cannot_be_quartered_is_refused():
    with pytest.raises(ValueError, match="30 is no multiple of 4"):
        SimpleFeaturePyramid(30)


def ramps(size, strides):
    """Maps whose two channels are the x and y in pixels of each place's centre."""
    maps = []
    for stride in strides:
        places = (torch.arange(round(size / stride)) + 0.5) * stride
        maps.append(
            torch.stack([places.expand(len(places), -1), places[:, None].expand(-1, len(places))])[None]
        )
    return maps


@pytest.mark.parametrize("patch", [16, 14, 4])
def test_regions_are_pooled_exactly_where_they_are_on_every_level(patch):
    strides = [scale * patch for scale in SCALES[:4]]
    maps = ramps(64 * patch, strides)
    sides = [6 * strides[0], 20 * strides[0], 14 * strides[2], 30 * strides[2]]
    boxes = torch.tensor([[10.0 * patch + 1, 9.0 * patch - 2] * 2] * 4)
    boxes[:, 2:] += torch.tensor(sides)[:, None]
    order = torch.tensor([2, 0, 3, 1])
    pooled = pool_regions(maps, [boxes[order]], strides, 7)
    steps = (torch.arange(7) + 0.5) / 7
    for region, box in zip(pooled, boxes[order], strict=True):
        assert_close(region[0], (box[0] + steps * (box[2] - box[0])).expand(7, 7), atol=1e-3, rtol=1e-5)
        assert_close(
            region[1], (box[1] + steps * (box[3] - box[1]))[:, None].expand(7, 7), atol=1e-3, rtol=1e-5
        )


def test_a_box_is_pooled_from_the_level_of_its_size_and_the_map_of_its_image():
    tens = torch.tensor([0.0, 10]).view(2, 1, 1, 1)
    maps = [torch.full((2, 1, 512 // 2**level, 512 // 2**level), float(level)) + tens for level in range(4)]
    sides = torch.tensor([1.0, 27, 29, 55, 57, 111, 113, 500])
    boxes = torch.cat([torch.zeros(8, 2), sides[:, None].expand(-1, 2)], dim=1)
    pooled = pool_regions(maps, [boxes[:0], boxes], [1, 2, 4, 8], 1).flatten()
    assert_close(pooled, torch.tensor([10.0, 10, 11, 11, 12, 12, 13, 13]))


def test_anchors_are_of_eight_strides_at_every_place_of_every_level():
    strides = (1.0, 3.5, 8.0)
    maps = [torch.zeros(2, 1, 4, 5), torch.zeros(2, 1, 2, 3), torch.zeros(2, 1, 1, 1, dtype=torch.bfloat16)]
    first, second = Anchors(strides, 8)(ImageList(maps[0], [(4, 5)] * 2), maps)
    assert_close(first, second)
    assert first.dtype == torch.float32
    assert len(first) == 3 * (20 + 6 + 1)
    sides = first[:, 2:] - first[:, :2]
    assert_close(sides.prod(1).sqrt()[[0, 60, 78]], torch.tensor([8.0, 28, 64]))
    assert_close((sides[:3, 1] / sides[:3, 0]), torch.tensor([0.5, 1, 2]))
    centres = (first[:, 2:] + first[:, :2]) / 2
    assert_close(centres[60:78:3], torch.tensor([[x * 3.5, y * 3.5] for y in range(2) for x in range(3)]))
