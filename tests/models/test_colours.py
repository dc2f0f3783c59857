"""Colours as classes of 3 bits a channel."""

import torch
from torch.testing import assert_close

from mae.models.colours import COLOURS, ColourBins, spread_tiles, tile_colours
from mae.models.patches import patchify

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
BINS = ColourBins(MEAN, STD)


def normalised(colours):
    return (torch.tensor(colours) - torch.tensor(MEAN)) / torch.tensor(STD)


def test_a_channel_has_8_equal_steps_red_first():
    assert COLOURS == 512
    colours = [[0.0, 0.0, 0.0], [0.13, 0.0, 0.0], [0.0, 0.13, 0.0], [0.0, 0.0, 0.13], [1.0, 1.0, 1.0]]
    assert BINS.classes(normalised(colours)).tolist() == [0, 64, 8, 1, 511]
    assert BINS.classes(normalised([[-1.0, 2.0, 0.5]])).tolist() == [7 * 8 + 4]


def test_the_middle_of_every_class_is_of_that_class():
    every = torch.arange(COLOURS)
    assert_close(BINS.classes(BINS.colours(every)), every)
    assert_close(BINS.colours(torch.tensor(0)), normalised([0.0625] * 3))


def test_tiles_are_the_means_of_their_pixels():
    images = torch.randn(2, 3, 16, 8)
    found = tile_colours(images, 8, 4)
    assert found.shape == (2, 2, 16, 3)
    assert_close(found[1, 1, 4 * 3 + 2], images[1, :, 14:16, 4:6].mean((1, 2)))
    assert_close(tile_colours(images, 8, 1)[:, :, 0], patchify(images, 8).unflatten(2, (-1, 3)).mean(2))


def test_tiles_fill_their_part_of_the_patch():
    colours = torch.randn(2, 2, 16, 3)
    pixels = spread_tiles(colours, 8)
    assert pixels.shape == (2, 2, 192)
    assert_close(pixels.unflatten(2, (8, 8, 3))[1, 1, 7, 4], colours[1, 1, 4 * 3 + 2])


def test_a_patch_that_four_does_not_divide_has_sixteen_tiles_too():
    assert tile_colours(torch.randn(1, 3, 28, 14), (14, 14), 4).shape == (1, 2, 16, 3)
    assert spread_tiles(torch.randn(1, 2, 16, 3), 14).shape == (1, 2, 588)
