"""Optimizers, held against the formulas of the papers."""

import pytest
import torch
from torch import nn

from mae.engine.optim import adamw, lars, sgd
from mae.methods import METHODS
from mae.models import vit as encoder


@pytest.fixture(scope="module")
def small_mae():
    vit = encoder.build("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)
    return METHODS["mae"](vit, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)


def test_pretraining_decays_tokens_and_matrices_but_no_vector_and_leaves_the_tables_out(small_mae):
    optimizer = adamw(small_mae, lr=1e-3, weight_decay=0.05)
    names = {id(parameter): name for name, parameter in small_mae.named_parameters()}
    decayed = {
        names[id(parameter)]: group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert decayed["encoder.cls_token"] == decayed["decoder.mask_token"] == 0.05
    assert not any("pos_embed" in name for name in decayed)
    for name, parameter in small_mae.named_parameters():
        if parameter.requires_grad:
            assert decayed[name] == (0.0 if parameter.ndim == 1 else 0.05), name
    assert optimizer.defaults["betas"] == (0.9, 0.95)


def test_a_lars_step_is_the_papers_formula():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3, dtype=torch.float64)
    optimizer = lars(layer, lr=0.7)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    buffers = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for step in range(3):
        gradients = [torch.randn_like(weight), torch.randn_like(bias)]
        layer.weight.grad, layer.bias.grad = (gradient.clone() for gradient in gradients)
        optimizer.step()
        adapted = gradients[0] * 1e-3 * weight.norm() / gradients[0].norm()
        for buffer, gradient in zip(buffers, (adapted, gradients[1]), strict=True):
            buffer.mul_(0.9).add_(gradient)
        weight, bias = weight - 0.7 * buffers[0], bias - 0.7 * buffers[1]
        torch.testing.assert_close(layer.weight.detach(), weight, rtol=1e-12, atol=1e-14, msg=f"step {step}")
        torch.testing.assert_close(layer.bias.detach(), bias, rtol=1e-12, atol=1e-14)


def test_sgd_is_nesterov_and_decays_matrices_only():
    optimizer = sgd(nn.Linear(3, 2), lr=0.4, weight_decay=0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)


@pytest.mark.parametrize("make", [adamw, lars, sgd])
def test_a_frozen_model_is_nothing_to_train(make):
    with pytest.raises(ValueError, match="nothing to train"):
        make(nn.Linear(2, 2).requires_grad_(False), lr=0.1)


def test_layer_decay_needs_to_know_the_layers():
    with pytest.raises(ValueError, match="group_matcher"):
        adamw(nn.Linear(2, 2), lr=0.1, layer_decay=0.75)
