"""BEiT, SimMIM and the denoising autoencoder: what enters, what is predicted, by which loss."""

import pytest
import torch
from methods.small import small_encoder, some_images
from torch.nn import functional as F
from torch.testing import assert_close

from mae.methods.beit import BEiT
from mae.methods.denoising import Denoising
from mae.methods.simmim import SimMIM
from mae.models.masking import masking
from mae.models.patches import patchify
from mae.models.targets import Target, build_target
from mae.models.vit import build


class Brightness(Target):
    """Two classes: whether a patch is brighter than 0."""

    classes = 2

    def __init__(self):
        super().__init__((4, 4), 2)

    def forward(self, images):
        return (patchify(images, 4).mean(-1) > 0).long()

    def loss(self, predicted, target):
        return F.cross_entropy(predicted.flatten(0, 1), target.flatten())


def made(kind, target="pixels", ratio=0.5):
    encoder = small_encoder()
    target = build_target(target, encoder) if isinstance(target, str) else target
    return kind(encoder, masking=masking("random", (4, 4), ratio), target=target).double()


def by_hand(method, images, masked):
    """Predictions (N, L, T): embed, put the mask token, add positions, run all blocks, norm, linear."""
    vit = method.encoder
    tokens = vit.patch_embed(images)
    tokens = torch.where(masked[..., None], method.mask_token, tokens) + vit.pos_embed[:, 1:]
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(images), -1, -1)
    tokens = vit.norm(vit.blocks(torch.cat([first, tokens], dim=1)))
    return method.head(tokens[:, 1:])


def test_beit_predicts_the_class_of_masked_patches_from_mask_tokens():
    method, images = made(BEiT, Brightness()), some_images()
    noise = torch.rand(3, 16, dtype=torch.float64)
    masked = noise.argsort(1).argsort(1) >= 8
    predicted = by_hand(method, images, masked)
    assert_close(method.reconstruct(images, noise)[0], predicted)
    classes = (patchify(images, 4).mean(-1) > 0).long()
    expected = F.cross_entropy(predicted[masked], classes[masked])
    assert_close(method(images, noise)["loss"], expected)


def test_simmim_is_the_absolute_difference_of_masked_pixels():
    method, images = made(SimMIM), some_images()
    noise = torch.rand(3, 16, dtype=torch.float64)
    masked = noise.argsort(1).argsort(1) >= 8
    error = (by_hand(method, images, masked) - patchify(images, 4)).abs()
    assert_close(method(images, noise)["loss"], error[masked].mean())


def test_simmim_asks_classes_by_their_own_loss():
    images, noise = some_images(), torch.rand(3, 16, dtype=torch.float64)
    losses = [made(kind, Brightness())(images, noise)["loss"] for kind in (BEiT, SimMIM)]
    assert_close(losses[0], losses[1], rtol=0, atol=0)


def test_denoising_reconstructs_every_pixel_of_an_image_with_patches_at_zero():
    method, images = made(Denoising), some_images()
    noise = torch.rand(3, 16, dtype=torch.float64)
    masked = (noise.argsort(1).argsort(1) >= 8).view(3, 1, 4, 4)
    corrupted = images * ~masked.repeat_interleave(4, 2).repeat_interleave(4, 3)
    predicted = method.head(method.encoder.forward_features(corrupted)[:, 1:])
    assert_close(method(images, noise)["loss"], (predicted - patchify(images, 4)).square().mean())
    assert "mask_token" not in method.state_dict()


@pytest.mark.parametrize(
    ("kind", "mask", "masked"), [(BEiT, "block", 75), (SimMIM, "cells", 120), (Denoising, "random", 98)]
)
def test_the_defaults_hide_what_the_paper_hides(kind, mask, masked):
    encoder = build("vit_tiny_patch16_224", img_size=224, embed_dim=32, depth=1, num_heads=4)
    target = build_target("pixels", encoder)
    method = kind(encoder, target=target)
    assert (kind.paper_mask[0], method.masking.num_masked) == (mask, masked)
