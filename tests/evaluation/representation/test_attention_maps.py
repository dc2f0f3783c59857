"""Attention maps of an encoder's last block."""

import pytest
import torch
from torch.testing import assert_close

from mae.evaluation.representation.attention_maps import attention_maps, centre_share
from mae.models.vit import build, encode


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return build("vit_tiny_patch16_224", img_size=(16, 24), patch_size=4, embed_dim=32, depth=2, num_heads=4)


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 16, 24)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_map_is_shares_over_the_grid(vit, images, pool):
    maps = attention_maps(vit, images, pool)
    assert maps.shape == (3, 4, 6)
    assert (maps > 0).all()
    assert_close(maps.sum((1, 2)), torch.ones(3))


def test_the_map_is_the_attention_that_timm_computes(vit, images):
    """Its values: with the weights of the maps the block's own output comes out."""
    attention, seen = vit.blocks[-1].attn, {}
    hook = attention.proj.register_forward_pre_hook(lambda _, inputs: seen.update(out=inputs[0]))
    before = attention.register_forward_pre_hook(lambda _, inputs: seen.update(tokens=inputs[0]))
    with torch.no_grad():
        encode(vit.eval(), images)
        qkv = attention.qkv(seen["tokens"]).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)
    hook.remove(), before.remove()
    weights = (qkv[0] * 8**-0.5 @ qkv[1].mT).softmax(-1)
    assert_close((weights @ qkv[2]).transpose(1, 2).flatten(2), seen["out"])
    wanted = weights.mean(1)[:, 0, 1:]
    assert_close(attention_maps(vit, images).flatten(1), wanted / wanted.sum(1, keepdim=True))


def test_looking_changes_nothing(vit, images):
    vit.train()
    hooks = len(vit.blocks[-1].attn._forward_pre_hooks)
    attention_maps(vit, images)
    assert vit.training
    assert len(vit.blocks[-1].attn._forward_pre_hooks) == hooks


@pytest.mark.parametrize("grid", [(4, 4), (14, 14), (3, 5)])
def test_even_attention_has_a_quarter_of_itself_in_the_middle_quarter(grid):
    assert_close(centre_share(torch.full((1, *grid), 1 / (grid[0] * grid[1]))), torch.tensor([0.25]))


def test_attention_on_the_centre_and_at_the_border_differ():
    maps = torch.zeros(2, 4, 4)
    maps[0, 1:3, 1:3], maps[1, 0] = 0.25, 0.25
    assert_close(centre_share(maps), torch.tensor([1.0, 0.0]))
