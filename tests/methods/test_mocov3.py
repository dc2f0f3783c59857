"""MoCo v3 and its relatives: losses of the papers, teachers that follow, any number of ranks."""

import math

import pytest
import torch
from engine.processes import run_ranks
from torch.nn import functional as F
from torch.testing import assert_close

from mae import distributed
from mae.methods.mocov3 import LOSSES, MoCoV3
from mae.models.vit import build

SMALL = {"hidden_dim": 16, "out_dim": 8}


def made(seed=0, **settings):
    torch.manual_seed(seed)
    encoder = build("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=32, depth=2, num_heads=4)
    return MoCoV3(encoder, **{**SMALL, **settings}).double()


def two_views(n=6):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2)]


def outputs(method, views):
    """Queries and keys of both views, of length 1, by the parts themselves."""
    student = [method.projector(method.encoder.forward_features(view)[:, 0]) for view in views]
    if method.teacher is None:
        return [[F.normalize(row, dim=1) for row in student]] * 2
    encoder, projector = method.teacher["encoder"], method.teacher["projector"]
    keys = [projector(encoder.forward_features(view)[:, 0]) for view in views]
    queries = [method.predictor(one) for one in student]
    return [[F.normalize(row, dim=1) for row in rows] for rows in (queries, keys)]


def test_mocov3_is_infonce_against_the_other_views_keys_both_ways():
    method, views = made(), two_views()
    (q1, q2), (k1, k2) = outputs(method, views)
    expected = 0
    for q, k in ((q1, k2), (q2, k1)):
        for i in range(len(q)):
            similar = torch.stack([q[i] @ k[j] / 0.2 for j in range(len(k))])
            expected += 2 * 0.2 * (similar.exp().sum().log() - similar[i]) / len(q)
    assert_close(method(*views)["loss"], expected)


def test_byol_is_the_squared_distance_from_the_teachers_output():
    method, views = made(loss="byol"), two_views()
    (q1, q2), (k1, k2) = outputs(method, views)
    distance = (q1 - k2).square().sum(1) + (q2 - k1).square().sum(1)
    assert_close(method(*views)["loss"], distance.mean())


def test_simclr_tells_each_of_2n_views_from_all_others_and_has_no_teacher():
    method, views = made(loss="simclr", temperature=0.5), two_views()
    z = torch.cat(outputs(method, views)[0])
    n, expected = len(z) // 2, 0
    for i in range(2 * n):
        similar = torch.stack([z[i] @ z[j] / 0.5 for j in range(2 * n)]).exp()
        others = similar.sum() - similar[i]
        expected += -(similar[(i + n) % (2 * n)] / others).log() / (2 * n)
    assert_close(method(*views)["loss"], expected)
    assert method.teacher is None
    assert method.predictor is None
    method.after_step(0.5)


@pytest.mark.parametrize("loss", LOSSES)
def test_similarities_and_loss_are_float32_under_autocast(loss, monkeypatch):
    method, compared = made(loss=loss).float(), []
    of_float32 = method._disagreement

    def seen(queries, keys):
        compared.append((queries.detach().double(), keys.detach().double()))
        return of_float32(queries, keys)

    monkeypatch.setattr(method, "_disagreement", seen)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = method(*[view.float() for view in two_views()])["loss"]
    assert found.dtype == torch.float32
    exact = sum(of_float32(queries, keys) for queries, keys in compared)
    assert_close(found.detach().double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_trainable_part_learns_and_the_teacher_gets_no_gradient(loss):
    method = made(loss=loss)
    method(*two_views())["loss"].backward()
    for name, parameter in method.named_parameters():
        trained = not name.startswith("teacher.") and "patch_embed" not in name and "pos_embed" not in name
        assert parameter.requires_grad == trained, name
        assert (parameter.grad is not None and bool(parameter.grad.abs().max() > 0)) == trained, name


def test_the_teacher_moves_by_a_momentum_that_goes_to_one():
    method = made()
    with torch.no_grad():
        method.projector[0].weight += 1
    before = method.teacher["projector"][0].weight.clone()
    for progress, share in ((0.0, 0.01), (0.5, 0.005), (1.0, 0.0)):
        method.after_step(progress)
        after = method.teacher["projector"][0].weight
        expected = before + share * (method.projector[0].weight - before)
        assert_close(after, expected.detach())
        before = after.clone()
    assert math.isclose(method.momentum, 0.99)


def test_the_teacher_starts_from_weights_that_the_encoder_is_given():
    method, other = made(), made(seed=3)
    method.encoder.load_state_dict(other.encoder.state_dict())
    assert_close(method.teacher["encoder"].state_dict(), other.encoder.state_dict())
    whole = made(seed=4)
    whole.after_step(0.0)
    method.load_state_dict(whole.state_dict())
    assert_close(method.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_the_patch_projection_is_random_and_frozen_unless_it_is_to_learn():
    assert not made().encoder.patch_embed.proj.weight.requires_grad
    assert made(freeze_patches=False).encoder.patch_embed.proj.weight.requires_grad


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="'dino' is not one of mocov3, byol, simclr"):
        made(loss="dino")


def as_rank(file):
    device = distributed.init("cpu")
    found = {}
    for name in LOSSES:
        method = made(loss=name)
        replica = distributed.replicate(method, device)
        found[name] = loss_and_gradients(
            method, replica(*[view[distributed.rank() :: 2] for view in two_views()])
        )
    if distributed.is_main():
        torch.save(found, file)
    distributed.shutdown()


def loss_and_gradients(method, parts):
    parts["loss"].backward()
    grads = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return {"loss": parts["loss"].detach(), "grads": grads}


def test_two_ranks_compute_the_loss_and_gradients_of_one_process_for_every_loss(tmp_path):
    file = tmp_path / "found.pt"
    run_ranks(as_rank, file)
    found = torch.load(file, weights_only=True)
    for name in LOSSES:
        method = made(loss=name)
        expected = loss_and_gradients(method, method(*two_views()))
        assert_close(found[name]["loss"], expected["loss"], rtol=1e-9, atol=0)
        assert_close(found[name]["grads"], expected["grads"], rtol=1e-7, atol=1e-12)


def test_the_teacher_drops_paths_as_the_student_does():
    method = made().train()
    assert method.teacher["encoder"].training
    assert not method.eval().teacher["encoder"].training
