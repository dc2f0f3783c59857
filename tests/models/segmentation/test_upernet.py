"""Taps, their rescaling and the heads on them: shapes at every size, and the facts of the papers."""

import pytest
import torch
from torch import nn

from mae.models import vit as encoder
from mae.models.segmentation.dpt import DPTHead
from mae.models.segmentation.intermediate_features import (
    Rescale,
    check_out_indices,
    encode_intermediate,
    pad_to_multiple,
)
from mae.models.segmentation.upernet import FCNHead, PyramidPooling, UPerHead

TINY = {"name": "vit_tiny_patch16_224", "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2}


@pytest.fixture
def vit():
    torch.manual_seed(0)
    built = encoder.build(**TINY, img_size=(16, 24))
    encoder.initialise(built)
    return built.eval()


def test_a_tap_is_the_stream_behind_its_block_without_the_class_token(vit):
    images = torch.randn(2, 3, 16, 24)
    maps, class_tokens = encode_intermediate(vit, images, (0, 1, 2, 3))
    for number, (patches, token) in enumerate(
        vit.forward_intermediates(images, norm=False, intermediates_only=True, return_prefix_tokens=True)
    ):
        torch.testing.assert_close(maps[number], patches)
        torch.testing.assert_close(class_tokens[number], token)


def test_the_last_tap_normed_is_what_the_encoder_gives(vit):
    images = torch.randn(2, 3, 16, 24)
    maps, class_tokens = encode_intermediate(vit, images, (3,))
    tokens = torch.cat([class_tokens[0], maps[0].flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(vit.norm(tokens), encoder.encode(vit, images))


def test_positions_follow_the_image_by_the_rule_of_mae(vit):
    images = torch.randn(1, 3, 32, 12)
    larger = encoder.build(**TINY, img_size=(32, 12)).eval()
    larger.load_state_dict(encoder.resize_positions(vit.state_dict(), (4, 6), (8, 3)))
    ours, theirs = encode_intermediate(vit, images, (0, 3))[0], encode_intermediate(larger, images, (0, 3))[0]
    torch.testing.assert_close(ours, theirs)


def test_checkpointed_blocks_give_the_same_gradients(vit):
    images = torch.randn(1, 3, 16, 24)
    gradients = []
    for saves in (False, True):
        vit.train().zero_grad()
        vit.set_grad_checkpointing(saves)
        encode_intermediate(vit, images, (3,))[0][0].square().sum().backward()
        gradients.append(vit.patch_embed.proj.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(("size", "padded"), [((1, 1), (4, 4)), ((17, 8), (20, 8)), ((8, 8), (8, 8))])
def test_images_are_padded_with_zeros_at_the_bottom_and_right(size, padded):
    images = torch.ones(1, 3, *size)
    result = pad_to_multiple(images, (4, 4))
    assert result.shape[-2:] == padded
    assert result.sum() == images.sum()
    torch.testing.assert_close(result[..., : size[0], : size[1]], images)


@pytest.mark.parametrize("taps", [(1, 2, 3), (0, 2, 1, 3), (0, 1, 2, 4), (-1, 1, 2, 3), (0, 1, 2, 2)])
def test_taps_that_cannot_be_are_refused_with_ones_that_can(taps):
    with pytest.raises(ValueError, match=r"last, 3; .* \[0, 1, 2, 3\]"):
        check_out_indices(taps, 4)


def test_a_tap_before_the_last_block_is_refused_because_the_rest_would_never_learn():
    assert check_out_indices([7, 11, 15, 23], 24) == (7, 11, 15, 23)
    with pytest.raises(ValueError, match=r"end with the encoder's last, 23"):
        check_out_indices((3, 5, 7, 11), 24)


@pytest.mark.parametrize("grid", [(8, 8), (3, 5), (1, 1), (1, 40)])
def test_taps_become_strides_of_a_quarter_a_half_one_and_two_patches(grid):
    rows, columns = grid
    shapes = [tuple(level.shape[-2:]) for level in Rescale(8)([torch.randn(2, 8, *grid)] * 4)]
    halved = (-(-rows // 2), -(-columns // 2))
    assert shapes == [(4 * rows, 4 * columns), (2 * rows, 2 * columns), grid, halved]


def test_pyramid_pooling_sees_the_means_of_1_4_9_and_36_parts():
    seen = []
    pooling = PyramidPooling(8, 4)
    for part in pooling.parts:
        part.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    top = torch.randn(2, 8, 12, 6)
    assert pooling(top).shape == (2, 4, 12, 6)
    assert [tuple(each.shape[-2:]) for each in seen] == [(1, 1), (2, 2), (3, 3), (6, 6)]
    torch.testing.assert_close(seen[0][..., 0, 0], top.mean(dim=(2, 3)))
    torch.testing.assert_close(seen[2][..., 0, 0], top[..., :4, :2].mean(dim=(2, 3)))


def test_a_change_on_any_level_reaches_the_logits_at_the_finest_stride():
    torch.manual_seed(0)
    head = UPerHead([8, 8, 8, 8], 5, channels=6).eval()
    levels = [torch.randn(1, 8, side, side) for side in (16, 8, 4, 2)]
    base = head(levels)
    assert base.shape == (1, 5, 16, 16)
    for number in range(4):
        changed = [level + 1.0 * (place == number) for place, level in enumerate(levels)]
        assert (head(changed) - base).abs().max() > 1e-5


def test_heads_have_the_sizes_of_the_published_ones():
    with torch.device("meta"):
        head = UPerHead([768] * 4, 150, channels=512)
        auxiliary = FCNHead(768, 150, channels=256)
    count = sum(parameter.numel() for parameter in head.parameters())
    pooling = 4 * (768 * 512 + 1024) + (768 + 4 * 512) * 512 * 9 + 1024
    top_down = 3 * (768 * 512 + 1024) + 3 * (512 * 512 * 9 + 1024) + 4 * 512 * 512 * 9 + 1024
    assert count == pooling + top_down + 512 * 150 + 150
    assert sum(p.numel() for p in auxiliary.parameters()) == 768 * 256 * 9 + 512 + 256 * 150 + 150


def test_dpt_gives_logits_at_every_pixel_and_uses_the_class_token():
    torch.manual_seed(0)
    head = DPTHead(8, (4, 4), 3, channels=16, dropout=0.25).eval()
    maps, tokens = [torch.randn(1, 8, 8, 16)] * 4, [torch.randn(1, 1, 8)] * 4
    logits = head(maps, tokens)
    assert logits.shape == (1, 3, 32, 64)
    assert (head(maps, [-token for token in tokens]) - logits).abs().max() > 1e-5
    assert [m.p for m in head.modules() if isinstance(m, nn.Dropout)] == [0.25]


@pytest.mark.parametrize("patch", [(14, 14), (16, 8), (64, 64)])
def test_dpt_refuses_patches_that_it_cannot_rescale(patch):
    with pytest.raises(ValueError, match="choose head upernet"):
        DPTHead.multiple(patch)
