"""I-JEPA: the loss of the release, a teacher along the paper's schedule, and what each part sees."""

import pytest
import torch
from methods.small import small_encoder, some_images
from torch.nn import functional as F
from torch.testing import assert_close

from mae.methods.ijepa import IJEPA
from mae.models.masking import masking
from mae.models.patches import patchify, unpatchify
from mae.models.vit import build, encode

SMALL = {"predictor_embed_dim": 32, "predictor_depth": 2, "predictor_num_heads": 4}


def made(seed=0, **settings):
    """A method whose teacher has moved away from its encoder."""
    method = IJEPA(small_encoder(seed), **{**SMALL, **settings}).double()
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return method


def noise_for(method, n=3):
    return torch.rand(n, *method.noise_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_the_loss_is_smooth_l1_of_each_blocks_normalised_latents_of_the_teacher():
    method, images = made(), some_images()
    noise = noise_for(method)
    mask = method.sample_mask(images, noise)
    whole = method.teacher["encoder"].forward_features(images)[:, 1:]
    whole = (whole - whole.mean(-1, keepdim=True)) / (
        whole.var(-1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    context = encode(method.encoder, images, mask.visible_ids)[:, 1:]
    part, losses = method.predictor, []
    for n in range(len(images)):
        seen = part.embed(context[n]) + part.pos_embed[mask.visible_ids[n]]
        for ids in mask.block_ids[n]:
            asked = part.mask_token[0] + part.pos_embed[ids]
            tokens = part.norm(part.blocks(torch.cat([seen, asked])[None]))[0]
            away = (part.pred(tokens[len(seen) :]) - whole[n, ids]).abs()
            losses.append(torch.where(away < 1, away.square() / 2, away - 0.5).mean())
    assert_close(method(images, noise)["loss"], torch.stack(losses).mean())


def test_the_teacher_moves_by_a_momentum_that_rises_linearly_to_one():
    method = made()
    for progress, share in ((0.0, 0.004), (0.5, 0.002), (1.0, 0.0)):
        before = method.teacher["encoder"].blocks[0].mlp.fc1.weight.clone()
        method.after_step(progress)
        student = method.encoder.blocks[0].mlp.fc1.weight
        expected = before + share * (student - before)
        assert_close(method.teacher["encoder"].blocks[0].mlp.fc1.weight, expected.detach())


def test_the_teacher_starts_from_weights_that_the_encoder_is_given():
    method, other = made(), made(seed=3)
    method.encoder.load_state_dict(other.encoder.state_dict())
    assert_close(method.teacher["encoder"].state_dict(), other.encoder.state_dict())


def test_targets_see_the_whole_image_and_give_no_gradient():
    method, images = made(), some_images()
    mask = method.sample_mask(images, noise_for(method))
    target = method.target_of(images, mask)
    assert not target.requires_grad
    patches = patchify(images, 4)
    patches[~mask.targets] += 1
    assert (method.target_of(unpatchify(patches, 4, (4, 4)), mask) - target).abs().max() > 1e-3


def test_no_block_depends_on_where_the_others_are():
    method, images = made(), some_images()
    mask = method.sample_mask(images, noise_for(method))
    context = encode(method.encoder, images, mask.visible_ids)[:, 1:]
    together = method.predictor(context, mask.visible_ids, mask.block_ids)
    for number in range(4):
        alone = method.predictor(context, mask.visible_ids, mask.block_ids[:, number : number + 1])
        assert_close(alone[:, 0], together[:, number])


def test_a_mask_without_blocks_is_one_target_of_all_that_is_hidden():
    method, images = made(masking=masking("random", (4, 4), 0.5)), some_images()
    mask = method.sample_mask(images, noise_for(method))
    predicted, target = method.predict(images, mask), method.target_of(images, mask)
    assert predicted.shape == target.shape == (3, 1, 8, 32)
    assert_close(method(images, noise_for(method))["loss"], F.smooth_l1_loss(predicted, target))
    assert method.describe()["target_block_patches"] == 8


def test_the_defaults_are_the_papers_for_vit_b():
    with torch.device("meta"):
        vit = build("vit_base_patch16_224", img_size=224)
    method = IJEPA(vit)
    assert method.describe() == {
        "attention": "full",
        "patches": 196,
        "masked": 147,
        "target_blocks": 4,
        "target_block_patches": 34,
    }
    assert (len(method.predictor.blocks), method.predictor.embed.out_features) == (6, 384)
    assert method.momentum == 0.996


def test_a_width_that_heads_cannot_share_is_named():
    with pytest.raises(ValueError, match="predictor_embed_dim 32 must be divisible by predictor_num_heads 3"):
        made(predictor_num_heads=3)


def test_targets_are_without_dropped_paths_while_the_encoder_trains():
    method = IJEPA(small_encoder(drop_path=0.5), **SMALL).train()
    images, noise = some_images().float(), noise_for(method).float()
    mask = method.sample_mask(images, noise)
    assert_close(method.target_of(images, mask), method.target_of(images, mask), rtol=0, atol=0)
    predicted = method.predict(images, mask)
    assert (predicted - method.predict(images, mask)).abs().max() > 0, "the student's are dropped"
