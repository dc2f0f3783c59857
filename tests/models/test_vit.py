"""The encoder: what can be built, what it computes on part of an image."""

import functools

import pytest
import timm
import torch
from torch.testing import assert_close

from mae.models.patches import grid_of, take
from mae.models.vit import build, encode, initialise, resize_positions

tiny = functools.partial(
    build, "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4
)


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("vit_base_patch16_224", (768, 12, 12, 16)),
        ("vit_large_patch16_224", (1024, 24, 16, 16)),
        ("vit_huge_patch14_224", (1280, 32, 16, 14)),
    ],
)
def test_presets_have_the_papers_sizes(name, dims):
    with torch.device("meta"):
        vit = build(name, img_size=224)
    block = vit.blocks[0]
    assert (vit.embed_dim, len(vit.blocks), block.attn.num_heads, vit.patch_embed.patch_size[0]) == dims
    norms = {module.eps for module in vit.modules() if isinstance(module, torch.nn.LayerNorm)}
    assert norms == {1e-6}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "vit_bse_patch16_224"}, "did you mean vit_base_patch16_224"),
        ({"name": "resnet50"}, "no plain ViT named 'resnet50'"),
        ({"name": "vit_relpos_base_patch16_224"}, "no plain ViT named"),
        ({"name": "vit_small_patch14_reg4_dinov2"}, "register tokens"),
        ({"name": "vit_base_patch16_gap_224"}, "class token"),
        ({"name": "vit_base_patch32_clip_224"}, "a norm before the blocks"),
        ({"name": "vit_small_patch16_36x1_224", "pool": "max"}, "pool 'max'"),
        ({"name": "vit_base_patch16_18x2_224"}, "blocks of another kind"),
        ({"img_size": 225}, "16x16 pixels do not tile an image of 225x225"),
        ({"img_size": "224"}, "whole number of pixels"),
        ({"embedd_dim": 192}, "did you mean embed_dim"),
        ({"embed_dim": 100}, "divisible by num_heads"),
        ({"embed_dim": 6, "num_heads": 3}, "divisible by 4"),
        ({"depth": 0}, "depth must be a whole number above 0"),
        ({"mlp_ratio": "4"}, "mlp_ratio must be a number"),
        ({"patch_size": 0}, "whole number of pixels"),
    ],
)
def test_what_is_no_plain_vit_is_refused_by_name(settings, message):
    settings = {"name": "vit_base_patch16_224", "img_size": 224} | settings
    with pytest.raises(ValueError, match=message):
        build(settings.pop("name"), **settings)


def test_average_pooling_moves_the_final_norm_behind_the_mean():
    state = tiny(pool="avg", num_classes=10).state_dict()
    assert "fc_norm.weight" in state
    assert "norm.weight" not in state
    assert state["head.weight"].shape == (10, 32)


def test_drop_path_grows_with_depth_to_the_given_rate():
    vit = tiny(depth=3, drop_path=0.2)
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks] == pytest.approx(
        [0, 0.1, 0.2]
    )


def test_initialisation_is_the_papers():
    torch.manual_seed(0)
    vit = tiny(embed_dim=64)
    initialise(vit)
    fan_in = 3 * 8 * 8
    weight = vit.patch_embed.proj.weight.detach()
    bound = (6 / (fan_in + 64)) ** 0.5
    assert 0.98 * bound < weight.abs().max() <= bound
    assert 0 < vit.patch_embed.proj.bias.detach().abs().max() <= fan_in**-0.5
    for linear in (module for module in vit.modules() if isinstance(module, torch.nn.Linear)):
        bound = (6 / (linear.in_features + linear.out_features)) ** 0.5
        assert 0.95 * bound < linear.weight.detach().abs().max() <= bound
        assert linear.bias.count_nonzero() == 0
    assert 0.01 < vit.cls_token.detach().std() < 0.03


def test_with_nothing_masked_encode_is_timms_forward_features():
    vit, images = tiny().eval(), torch.randn(2, 3, 32, 32)
    expected = vit.forward_features(images)
    assert_close(encode(vit, images), expected, rtol=0, atol=0)
    everything = torch.arange(16).expand(2, -1)
    assert_close(encode(vit, images, everything), expected)
    nothing = torch.zeros(2, 16, dtype=torch.bool), torch.randn(1, 1, 32)
    assert_close(encode(vit, images, corrupt=nothing), expected, rtol=0, atol=0)


def test_visible_patches_keep_their_own_positions():
    vit, images, ids = tiny(depth=1).eval(), torch.randn(2, 3, 32, 32), torch.tensor([[3, 9], [0, 15]])
    tokens = torch.cat(
        [
            (vit.cls_token + vit.pos_embed[:, :1]).expand(2, -1, -1),
            take(vit.patch_embed(images) + vit.pos_embed[:, 1:], ids),
        ],
        dim=1,
    )
    assert_close(encode(vit, images, ids), vit.norm(vit.blocks(tokens)))


def test_encoder_never_sees_a_masked_patch_whichever_way_it_is_hidden():
    vit = tiny().eval()
    images = torch.randn(1, 3, 32, 32)
    noisy = images.clone()
    noisy[:, :, :8, 8:16] = torch.randn(1, 3, 8, 8) * 100  # patch 1
    visible = torch.tensor([[index for index in range(16) if index != 1]])
    hidden = (torch.arange(16) == 1)[None], torch.randn(1, 1, 32)
    assert_close(encode(vit, noisy, visible), encode(vit, images, visible), rtol=0, atol=0)
    assert_close(encode(vit, noisy, corrupt=hidden), encode(vit, images, corrupt=hidden), rtol=0, atol=0)
    assert (encode(vit, noisy) - encode(vit, images)).abs().max() > 1e-3


def test_the_mask_token_replaces_the_embedding_before_positions_are_added():
    vit, images = tiny(depth=1).eval(), torch.randn(2, 3, 32, 32)
    mask, token = torch.rand(2, 16) < 0.5, torch.randn(1, 1, 32, requires_grad=True)
    patches = vit.patch_embed(images)
    patches = mask[..., None] * token + ~mask[..., None] * patches
    tokens = torch.cat([vit.cls_token.expand(2, -1, -1), patches], dim=1) + vit.pos_embed
    latents = encode(vit, images, corrupt=(mask, token))
    assert_close(latents, vit.norm(vit.blocks(tokens)))
    latents.square().sum().backward()
    assert token.grad.abs().max() > 0


def test_gradient_checkpointing_changes_no_value_and_no_gradient():
    vit, images, ids = tiny(), torch.randn(2, 3, 32, 32), torch.tensor([[3, 9], [0, 15]])
    plain = encode(vit, images, ids)
    plain[:, 1:].square().sum().backward()
    gradient, vit.cls_token.grad = vit.cls_token.grad, None
    vit.set_grad_checkpointing(True)
    again = encode(vit, images, ids)
    again[:, 1:].square().sum().backward()
    assert_close(again, plain)
    assert_close(vit.cls_token.grad, gradient)


def test_encode_refuses_images_of_another_size_and_two_ways_of_hiding():
    vit = tiny()
    with pytest.raises(ValueError, match=r"\(3, 32, 32\)"):
        encode(vit, torch.zeros(1, 3, 32, 40), torch.tensor([[0]]))
    with pytest.raises(ValueError, match="not both"):
        encode(
            vit, torch.zeros(1, 3, 32, 32), torch.tensor([[0]]), (torch.zeros(1, 16).bool(), torch.zeros(32))
        )


def test_positions_resize_bicubic_without_antialiasing_and_keep_the_class_row():
    state = {"pos_embed": torch.randn(1, 1 + 6 * 6, 8), "cls_token": torch.randn(1, 1, 8)}
    resized = resize_positions(state, (6, 6), (3, 4))
    assert resized["pos_embed"].shape == (1, 13, 8)
    assert_close(resized["pos_embed"][:, 0], state["pos_embed"][:, 0])
    assert_close(resized["cls_token"], state["cls_token"])
    antialiased = timm.layers.resample_abs_pos_embed(state["pos_embed"], new_size=[3, 4], old_size=[6, 6])
    assert (resized["pos_embed"] - antialiased).abs().max() > 0.1
    # Cubic convolution (a = -.75) reproduces a constant, and at half size falls between the samples.
    middle = torch.tensor([-0.09375, 0.59375, 0.59375, -0.09375])
    grid = state["pos_embed"][0, 1:].unflatten(0, (6, 6))
    halved = resize_positions(state, (6, 6), (3, 3))["pos_embed"][0, 1:].unflatten(0, (3, 3))
    expected = torch.einsum("i,j,ijd->d", middle, middle, grid[1:5, 1:5])
    assert_close(halved[1, 1], expected)


def test_positions_of_the_same_grid_stay_as_they_are():
    state = {"pos_embed": torch.randn(1, 17, 8)}
    assert resize_positions(state, (4, 4), (4, 4))["pos_embed"] is state["pos_embed"]
    with pytest.raises(ValueError, match="17 rows"):
        resize_positions(state, (3, 5), (4, 4))


def test_an_encoder_at_another_size_loads_resized_positions():
    small, large = tiny(), tiny(img_size=(48, 64))
    state = resize_positions(small.state_dict(), grid_of(32, 8), grid_of((48, 64), 8))
    large.load_state_dict(state)
    assert encode(large, torch.randn(1, 3, 48, 64)).shape == (1, 49, 32)
