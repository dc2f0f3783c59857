"""Facts about patches, tokens and positions."""

import pytest
import torch
from torch.testing import assert_close

from mae.models.patches import grid_of, patchify, pixels_at, put, sincos_positions, take, unpatchify
from mae.models.vit import build, initialise


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("patch_size", [4, (4, 2), (2, 8)])
def test_unpatchify_undoes_patchify(channels, patch_size):
    images = torch.randn(2, channels, 8, 16)
    grid = grid_of((8, 16), patch_size)
    patches = patchify(images, patch_size)
    assert patches.shape[:2] == (2, grid[0] * grid[1])
    assert_close(unpatchify(patches, patch_size, grid), images, rtol=0, atol=0)


def test_a_patch_lists_its_pixels_by_row_then_column_then_channel():
    images = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    patch = patchify(images, 2)[1, 4]  # second row of patches, second of three
    expected = [images[1, c, 2 + row, 2 + column] for row in (0, 1) for column in (0, 1) for c in range(3)]
    assert patch.tolist() == [int(value) for value in expected]


def test_patch_embedding_of_chosen_patches_equals_the_convolution():
    images, ids = torch.randn(2, 3, 8, 12), torch.tensor([[5, 0, 3], [1, 2, 4]])
    convolution = torch.nn.Conv2d(3, 7, 4, 4)
    everywhere = convolution(images).flatten(2).transpose(1, 2)
    chosen = torch.nn.functional.linear(
        pixels_at(images, 4, ids), convolution.weight.flatten(1), convolution.bias
    )
    assert_close(chosen, take(everywhere, ids))


def test_put_undoes_take_and_leaves_its_argument_alone():
    tokens, ids = torch.randn(2, 5, 3), torch.tensor([[4, 1], [0, 3]])
    blank = torch.zeros_like(tokens)
    placed = put(take(tokens, ids), ids, onto=blank)
    assert_close(take(placed, ids), take(tokens, ids))
    assert placed.count_nonzero() == 2 * 2 * 3
    assert blank.count_nonzero() == 0


def test_first_half_of_a_position_encodes_the_column():
    table = sincos_positions(16, (3, 5)).unflatten(0, (3, 5))
    assert table.dtype == torch.float32
    assert_close(table[0, :, :8], table[2, :, :8])
    assert_close(table[:, 0, 8:], table[:, 4, 8:])
    frequency = 10000 ** (-1 / 4)
    assert table[2, 3, 1].item() == pytest.approx(torch.tensor(3 * frequency).sin().item(), abs=1e-6)
    assert table[2, 3, 13].item() == pytest.approx(torch.tensor(2 * frequency).cos().item(), abs=1e-6)


def test_patches_that_do_not_tile_the_image_are_refused():
    with pytest.raises(ValueError, match="4x4 pixels do not tile an image of 8x10"):
        patchify(torch.zeros(1, 3, 8, 10), 4)
    with pytest.raises(ValueError, match="divisible by 4"):
        sincos_positions(18, (2, 2))
    with pytest.raises(ValueError, match="whole number of pixels"):
        grid_of(8, 0)


def test_positions_are_frozen_with_zeros_for_the_class_token():
    vit = build("vit_tiny_patch16_224", img_size=(8, 12), patch_size=4, embed_dim=32, depth=1, num_heads=4)
    initialise(vit)
    assert not vit.pos_embed.requires_grad
    assert vit.pos_embed[0, 0].count_nonzero() == 0
    assert_close(vit.pos_embed[0, 1:].data, sincos_positions(32, (2, 3)))
