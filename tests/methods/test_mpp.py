"""Masked patch prediction: 80 % a mask token, 10 % another patch, 10 % kept, all of them predicted."""

import pytest
import torch
from methods.small import small_encoder, some_images
from torch.testing import assert_close

from mae.engine.cost import training_flops
from mae.methods.mpp import MPP
from mae.methods.simmim import SimMIM
from mae.models.masking import masking
from mae.models.patches import patchify
from mae.models.targets import build_target


def made(target="pixels", mask="random"):
    encoder = small_encoder()
    return MPP(encoder, masking=masking(mask, (4, 4), 0.5), target=build_target(target, encoder)).double()


def test_of_the_masked_patches_eight_in_ten_are_tokens_one_is_another_patch_and_one_is_kept():
    method = made()
    torch.manual_seed(0)
    found = method.sample_mask(torch.zeros(4000, 3, 16, 16))
    masked = found.masked.sum().item()
    assert masked == 4000 * 8
    assert found.unchanged.sum().item() / masked == pytest.approx(0.1, abs=0.01)
    assert found.swapped.sum().item() / masked == pytest.approx(0.1, abs=0.01)
    assert not (found.unchanged & found.swapped).any()
    assert not ((found.unchanged | found.swapped) & ~found.masked).any()
    assert torch.bincount(found.others.flatten(), minlength=16).min() > 3500


def test_the_encoder_sees_what_was_drawn_and_the_loss_is_over_all_masked_patches():
    method, images = made(), some_images()
    noise = torch.rand(3, *method.noise_shape, dtype=torch.float64)
    noise[:, 16:32] = torch.tensor([0.3, 0.85, 0.95, 0.5] * 4)
    found = method.sample_mask(images, noise)
    assert found.unchanged.any()
    assert found.swapped.any()
    vit = method.encoder
    own = vit.patch_embed(images)
    entering = own.clone()
    for n in range(3):
        for i in range(16):
            if found.swapped[n, i]:
                entering[n, i] = own[n, found.others[n, i]]
            elif found.masked[n, i] and not found.unchanged[n, i]:
                entering[n, i] = method.mask_token[0, 0]
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(3, -1, -1)
    tokens = vit.norm(vit.blocks(torch.cat([first, entering + vit.pos_embed[:, 1:]], dim=1)))
    error = (method.head(tokens[:, 1:]) - patchify(images, 4)).square()
    assert_close(method(images, noise)["loss"], error[found.masked].mean())


def test_a_swapped_patch_costs_no_second_embedding():
    encoder = small_encoder()
    settings = {"masking": masking("random", (4, 4), 0.5), "target": build_target("pixels", encoder)}
    images = some_images().float()
    costs = [training_flops(kind(encoder, **settings), images) for kind in (MPP, SimMIM)]
    assert costs[0] == costs[1]


@pytest.mark.parametrize("target", ["mean_colour", "mosaic", "pixels"])
def test_the_papers_three_targets_can_be_had(target):
    method, images = made(target), some_images()
    loss = method(images)["loss"]
    assert torch.isfinite(loss)
    loss.backward()
    assert method.mask_token.grad.abs().max() > 0


def test_it_goes_with_masks_that_draw_other_noise():
    method, images = made(mask="block"), some_images()
    noise = torch.rand(3, *method.noise_shape, dtype=torch.float64)
    assert method.sample_mask(images, noise).masked.sum(1).tolist() == [method.masking.num_masked] * 3
    assert_close(method(images, noise)["loss"], method(images, noise)["loss"], rtol=0, atol=0)
