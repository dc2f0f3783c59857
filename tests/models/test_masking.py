"""Facts about masks."""

import pytest
import torch
from torch.testing import assert_close

from mae.models.masking import mask_highest, num_masked_of


def test_mae_hides_147_of_196_patches():
    assert num_masked_of(196, 0.75) == 147
    assert num_masked_of(256, 0.75) == 192


def test_rounding_keeps_the_whole_part_of_the_visible_share():
    assert num_masked_of(16, 0.6) == 10
    assert num_masked_of(100, 0.9) == 91  # 100 * (1 - 0.9) is 9.999...: the release rounds down


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 0.99])
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
