"""Facts about masks."""

from typing import get_args

import pytest
import torch
from torch.testing import assert_close

from mae.config import methods
from mae.models.masking import MASKINGS, mask_highest, masking, num_masked_of
from mae.models.targets import TARGETS


def test_mae_hides_147_of_196_patches():
    assert num_masked_of(196, 0.75) == 147
    assert num_masked_of(256, 0.75) == 192


def test_rounding_keeps_the_whole_part_of_the_visible_share():
    assert num_masked_of(16, 0.6) == 10
    assert num_masked_of(100, 0.9) == 91  # 100 * (1 - 0.9) is 9.999...: the release rounds down


def test_a_whole_number_is_how_many_patches_are_masked_exactly():
    assert [num_masked_of(196, count) for count in range(1, 196)] == list(range(1, 196))
    for name in MASKINGS:
        for grid in ((14, 14), (7, 9), (2, 8)):
            length = grid[0] * grid[1]
            for count in {1, 2, length // 3, 75, length - 1} & set(range(1, length)):
                hides = masking(name, grid, count)
                mask = hides(torch.rand(20, *hides.noise_shape))
                assert hides.num_masked == count
                assert (mask.masked.sum(1) == count).all()


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 0.99, 0, 16, -1])
def test_a_ratio_that_masks_nothing_or_everything_is_refused(ratio):
    with pytest.raises(ValueError, match="mask_ratio"):
        num_masked_of(16, ratio)


def test_the_highest_scores_are_masked_and_ids_ascend():
    mask = mask_highest(torch.tensor([[0.3, 0.9, 0.1, 0.5], [0.8, 0.2, 0.7, 0.6]]), 2)
    assert mask.masked.tolist() == [[False, True, False, True], [True, False, True, False]]
    assert mask.masked_ids.tolist() == [[1, 3], [0, 2]]
    assert mask.visible_ids.tolist() == [[0, 2], [1, 3]]


def test_every_row_hides_the_same_number_even_where_scores_tie():
    mask = mask_highest(torch.zeros(3, 10), 4)
    assert mask.masked.sum(1).tolist() == [4, 4, 4]
    assert mask.visible_ids.shape == (3, 6)


def test_random_scores_hide_every_patch_equally_often():
    torch.manual_seed(0)
    masked = mask_highest(torch.rand(4000, 16), 12).masked
    assert_close(masked.float().mean(0), torch.full((16,), 0.75), atol=0.03, rtol=0)


def masks(name, mask_ratio, grid=(14, 14), images=3000):
    """Sample masks: hidden patches (N, rows, columns) as 0 and 1."""
    hides = masking(name, grid, mask_ratio)
    mask = hides(torch.rand(images, *hides.noise_shape, generator=torch.Generator().manual_seed(0)))
    return mask.masked.unflatten(1, grid).float()


@pytest.mark.parametrize("name", MASKINGS)
@pytest.mark.parametrize("grid", [(14, 14), (4, 4), (6, 6), (7, 9), (2, 8)])
@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.75])
def test_every_image_hides_exactly_as_many(name, grid, ratio):
    hides = masking(name, grid, ratio)
    mask = hides(torch.rand(200, *hides.noise_shape))
    assert (mask.masked.sum(1) == hides.num_masked).all()
    assert mask.masked_ids.shape == (200, hides.num_masked)
    assert 0 < hides.num_masked < grid[0] * grid[1]


def test_the_papers_numbers_of_hidden_patches():
    numbers = {
        ("random", 0.75): 147,
        ("block", 0.38): 75,
        ("block", 0.5): 98,
        ("grid", 0.75): 147,
        ("cells", 0.6): 120,
        ("multiblock", 0.75): 147,
    }
    assert {key: masking(key[0], (14, 14), key[1]).num_masked for key in numbers} == numbers


def centre_and_border(hidden):
    share = hidden.mean(0)
    edge = torch.ones(14, 14, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    return share[4:10, 4:10].mean().item(), share[edge].mean().item()


@pytest.mark.parametrize(
    ("name", "ratio", "centre", "border"),
    [
        ("random", 0.75, 0.75, 0.75),
        ("block", 0.38, 0.67, 0.13),
        ("block", 0.5, 0.81, 0.19),
        ("block", 0.75, 0.98, 0.40),
    ],
)
def test_blocks_hide_the_centre_and_spare_the_border(name, ratio, centre, border):
    assert centre_and_border(masks(name, ratio)) == pytest.approx((centre, border), abs=0.02)


@pytest.mark.parametrize("ratio", [75, 0.5])
def test_blocks_favour_no_side_of_the_image(ratio):
    """One that is one row wide is hidden to 13 %, the standard error of that over the images is .25 %."""
    share = masks("block", ratio, images=20000).mean(0)
    for turned in (share.flip(0), share.flip(1), share.T):
        assert_close(share.mean(1), turned.mean(1), rtol=0, atol=0.01)
        assert_close(share.mean(0), turned.mean(0), rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("name", "ratio", "neighbours"),
    [("random", 0.75, 0.93), ("grid", 0.75, 1.24), ("block", 0.38, 0.54), ("block", 0.75, 0.25)],
)
def test_blocks_leave_a_masked_patch_fewer_visible_neighbours_and_a_grid_more(name, ratio, neighbours):
    hidden = masks(name, ratio)
    visible = torch.nn.functional.pad(1 - hidden, (1, 1, 1, 1))
    around = visible[:, :-2, 1:-1] + visible[:, 2:, 1:-1] + visible[:, 1:-1, :-2] + visible[:, 1:-1, 2:]
    assert ((around * hidden).sum() / hidden.sum()).item() == pytest.approx(neighbours, abs=0.025)


def test_the_grid_keeps_one_patch_of_every_four_and_half_as_on_a_chess_board():
    kept = 1 - masks("grid", 0.75, images=2)[0]
    assert kept[::2, ::2].all()
    assert kept.sum() == 49
    hidden = masks("grid", 0.5, images=2)[1]
    row, column = torch.arange(14)[:, None], torch.arange(14)
    assert_close(hidden, ((row + column) % 2).float())


def test_cells_are_hidden_whole():
    hidden = masks("cells", 0.6, images=50)
    cells = hidden.unflatten(2, (7, 2)).unflatten(1, (7, 2)).sum((2, 4))
    assert set(cells.flatten().tolist()) == {0.0, 4.0}
    assert_close((cells == 4).float().mean((1, 2)), torch.full((50,), 30 / 49))


def target_blocks(grid=(14, 14), mask_ratio=0.75, images=2000):
    """A masking, its mask, and each of its blocks (N, B, rows, columns) bool."""
    hides = masking("multiblock", grid, mask_ratio)
    mask = hides(torch.rand(images, *hides.noise_shape, generator=torch.Generator().manual_seed(0)))
    blocks = torch.zeros(images, hides.blocks, grid[0] * grid[1], dtype=torch.bool)
    return hides, mask, blocks.scatter(2, mask.block_ids, True).unflatten(2, grid)


@pytest.mark.parametrize("grid", [(14, 14), (4, 4), (7, 9), (2, 8)])
@pytest.mark.parametrize("ratio", [1, 3, 0.3, 0.75])
def test_target_blocks_have_one_size_and_all_of_them_is_masked(grid, ratio):
    hides, mask, blocks = target_blocks(grid, ratio)
    assert (blocks.sum((2, 3)) == hides.block_size).all()
    assert (blocks.any(1).flatten(1) == mask.targets).all()
    assert not (mask.targets & ~mask.masked).any()
    assert hides.block_size == min(max(1, round(0.175 * grid[0] * grid[1])), max(1, hides.num_masked // 4))


def test_target_blocks_are_rectangles_of_the_papers_aspect_but_for_one_side():
    hides, _, blocks = target_blocks()
    assert (hides.blocks, hides.block_size) == (4, 34)
    rows, columns = blocks.any(3).sum(2), blocks.any(2).sum(2)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 7, 5, 7)
    assert (rows * columns - 34 < torch.maximum(rows, columns)).all()


def test_target_blocks_and_context_favour_no_side_of_the_image():
    _, mask, blocks = target_blocks(images=20000)
    for share in (blocks.float().mean((0, 1)), (~mask.masked).float().mean(0).unflatten(0, (14, 14))):
        for turned in (share.flip(0), share.flip(1), share.T):
            assert_close(share.mean(1), turned.mean(1), rtol=0, atol=0.01)


def test_the_context_is_one_block_less_the_targets_cut_from_one_side():
    """Around it is a frame at most a patch wide on two sides: .85 of the image and more is in the block."""
    _, mask, _ = target_blocks()
    visible = (~mask.masked).unflatten(1, (14, 14))
    neither = (mask.masked & ~mask.targets).unflatten(1, (14, 14))
    for seen, left in zip(visible[:50], neither[:50], strict=True):
        at, lost = seen.nonzero(), left.nonzero()
        inside = lost[((lost > at.min(0).values) & (lost < at.max(0).values)).all(1)]
        along = [len(inside[:, side].unique()) for side in range(2)]
        assert not len(inside) or min(along) == 1, "a row or a column is cut in part, and no patch else"


@pytest.mark.parametrize("name", MASKINGS)
def test_noise_fixes_the_mask_and_another_shape_is_refused(name):
    hides, images = masking(name, (4, 6), 0.5), torch.zeros(2, 3, 8, 12)
    noise = torch.rand(2, *hides.noise_shape)
    assert_close(hides.sample(images, noise).masked, hides(noise).masked)
    with pytest.raises(ValueError, match="noise has shape"):
        hides.sample(images, noise[:, :-1])


def test_an_unknown_mask_is_named():
    with pytest.raises(ValueError, match="mask 'spiral' is not one of random, block"):
        masking("spiral", (4, 4), 0.5)


def test_the_names_of_the_parameters_are_those_of_the_tables():
    assert set(get_args(methods.Mask)) == set(MASKINGS)
    assert set(get_args(methods.Target)) == set(TARGETS)
