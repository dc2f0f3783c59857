"""CAE against a plain program: an image and a formula at a time, sharing nothing with ours but weights."""

import math

import pytest
import torch
from methods.small import small_encoder
from torch.testing import assert_close

from mae.methods import METHODS
from mae.models.masking import masking
from mae.models.targets import build_target


def linear(x, layer):
    return x @ layer.weight.T + layer.bias


def normed(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.weight + layer.bias


def attended(query, key, value, heads):
    """(K, D), a head's columns side by side."""
    found = []
    for q, k, v in zip(*(one.chunk(heads, 1) for one in (query, key, value)), strict=True):
        found.append((q @ k.T / math.sqrt(q.shape[1])).softmax(1) @ v)
    return torch.cat(found, 1)


def mlp(x, layers):
    hidden = linear(x, layers.fc1)
    return linear(hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2, layers.fc2)


def scaled(x, scale):
    return x * getattr(scale, "gamma", 1.0)


def vit_block(x, block):
    query, key, value = linear(normed(x, block.norm1), block.attn.qkv).chunk(3, 1)
    x = x + scaled(linear(attended(query, key, value, block.attn.num_heads), block.attn.proj), block.ls1)
    return x + scaled(mlp(normed(x, block.norm2), block.mlp), block.ls2)


def positions(width, grid):
    """(L, D): of column, then of row, sines and then cosines."""
    rows = []
    for row in range(grid[0]):
        for column in range(grid[1]):
            angles = [[at / 10000 ** (k / (width // 4)) for k in range(width // 4)] for at in (column, row)]
            rows.append([wave(a) for those in angles for wave in (math.sin, math.cos) for a in those])
    return torch.tensor(rows, dtype=torch.float64)


def patches_of(image, patch_size, grid):
    """Split (C, H, W) into patches (C, P, P), row by row."""
    (high, wide), (rows, columns) = patch_size, grid
    return [
        image[:, r * high : (r + 1) * high, c * wide : (c + 1) * wide]
        for r in range(rows)
        for c in range(columns)
    ]


def encoded(vit, patches, places):
    """Latents (K, D) of those patches alone, the class token's left out."""
    kernel = vit.patch_embed.proj
    tokens = [
        (kernel.weight * patch).sum((1, 2, 3)) + kernel.bias + place
        for patch, place in zip(patches, places, strict=True)
    ]
    x = torch.stack([vit.cls_token[0, 0], *tokens])
    for block in vit.blocks:
        x = vit_block(x, block)
    return normed(x, vit.norm)[1:]


def regressed(regressor, visible, seen, hidden):
    """Latents (M, D) at the places `hidden`, out of those (V, D) at the places `seen`."""
    x = regressor.mask_token[0].expand(len(hidden), -1)
    for block in regressor.blocks:
        context = torch.cat([visible, x])
        weights, biases = block.attn.in_proj_weight.chunk(3), block.attn.in_proj_bias.chunk(3)
        inputs = (
            normed(x + hidden, block.norm_query),
            normed(context + torch.cat([seen, hidden]), block.norm_key),
            normed(context, block.norm_value),
        )
        qkv = [one @ weight.T + bias for one, weight, bias in zip(inputs, weights, biases, strict=True)]
        x = x + scaled(linear(attended(*qkv, block.attn.num_heads), block.attn.out_proj), block.scale_attn)
        x = normed(x, block.norm)
        x = x + scaled(mlp(x, block.mlp), block.scale_mlp)
    return normed(x, regressor.norm)


def textbook(method, images, masked, target):
    """Both losses of images (N, C, H, W), masked (N, L) bool. target: its classes (N, L), or its name."""
    vit = method.encoder
    grid, patch_size = vit.patch_embed.grid_size, vit.patch_embed.patch_size
    table = positions(vit.embed_dim, grid)
    predicting, aligning = [], []
    for n, image in enumerate(images):
        patches = patches_of(image, patch_size, grid)
        hidden = [i for i in range(len(patches)) if masked[n, i]]
        seen = [i for i in range(len(patches)) if not masked[n, i]]
        visible = encoded(vit, [patches[i] for i in seen], table[seen])
        latents = regressed(method.regressor, visible, table[seen], table[hidden])
        aim = encoded(vit, [patches[i] for i in hidden], table[hidden]).detach()
        aligning.append((latents - aim).square().mean())
        x = latents + table[hidden]
        for block in method.decoder.blocks:
            x = vit_block(x, block)
        predicted = linear(normed(x, method.decoder.norm), method.decoder.pred)
        for at, i in enumerate(hidden):
            if not isinstance(target, str):
                predicting.append(-predicted[at].log_softmax(0)[target[n, i]])
                continue
            truth = patches[i].permute(1, 2, 0).flatten()
            if target == "normalised_pixels":
                truth = (truth - truth.mean()) / (truth.var() + 1e-6).sqrt()
            predicting.append((predicted[at] - truth).square().mean())
    return sum(predicting) / len(predicting), sum(aligning) / len(aligning)


@pytest.mark.parametrize(
    ("encoder", "settings", "mask", "target"),
    [
        ({"img_size": (24, 40), "patch_size": 8}, {}, ("random", 0.5), "pixels"),
        (
            {"img_size": (24, 40), "patch_size": (8, 4)},
            {"init_values": None},
            ("block", 0.4),
            "normalised_pixels",
        ),
        ({"in_chans": 1, "depth": 3, "init_values": 0.1}, {"regressor_depth": 3}, ("grid", 0.75), "pixels"),
        (
            {"num_heads": 2, "init_values": 1e-5},
            {"decoder_depth": 3, "init_values": 1e-5},
            ("cells", 0.5),
            "normalised_pixels",
        ),
        ({"mlp_ratio": 2.0, "init_values": 0.1}, {"alignment_weight": 0.5}, ("block", 7), "mean_colour"),
        ({"img_size": 42, "patch_size": 14}, {"init_values": None}, ("random", 8), "mean_colour"),
    ],
    ids=str,
)
def test_it_equals_the_textbook_algorithm_at_any_size(encoder, settings, mask, target):
    vit = small_encoder(**encoder)
    grid = vit.patch_embed.grid_size
    chosen = {"regressor_depth": 2, "decoder_depth": 1, "alignment_weight": 2.0, **settings}
    method = METHODS["cae"](
        vit, masking=masking(mask[0], grid, mask[1]), target=build_target(target, vit), **chosen
    )
    method.double()
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in trained.items():  # LayerScale and biases, too, so that none is idle
            p.normal_(mean=1.0 if "gamma" in name or ("norm" in name and "weight" in name) else 0.0, std=0.2)
    method.encoder.pos_embed.data[0, 1:] = positions(vit.embed_dim, grid)  # in float64
    images = torch.randn(2, vit.in_chans, *vit.patch_embed.img_size, dtype=torch.float64)
    noise = torch.rand(2, *method.noise_shape, dtype=torch.float64)
    masked = method.sample_mask(images, noise).masked
    named = target in ("pixels", "normalised_pixels")
    predicting, aligning = textbook(method, images, masked, target if named else method.target(images))
    ours = method(images, noise)
    near = {"rtol": 1e-10, "atol": 1e-13}
    assert_close(ours["prediction_loss"], predicting, **near)
    assert_close(ours["alignment_loss"], aligning, **near)
    loss = predicting + chosen["alignment_weight"] * aligning
    assert_close(ours["loss"], loss, **near)
    expected = dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))
    found = dict(zip(trained, torch.autograd.grad(ours["loss"], list(trained.values())), strict=True))
    assert_close(found, expected, rtol=1e-8, atol=1e-12)
