"""The contract of every pretraining method. A new one joins METHODS, and SMALL if its defaults are large."""

import copy

import pytest
import torch
from torch.testing import assert_close

from mae.config.methods import Methods
from mae.engine.cost import training_flops
from mae.methods import METHODS, Method
from mae.methods.masked import MaskedMethod
from mae.methods.masked_image_modeling import MaskedImageModeling
from mae.methods.mpp import MPP
from mae.models.patches import patchify, take, unpatchify
from mae.models.targets import build_target
from mae.models.vit import build

LENGTH, PATCH, GRID = 16, 4, (4, 4)


# Settings that keep a method small, where its defaults are a paper's sizes.
SMALL = {
    "mae": {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 4},
    "cae": {"regressor_depth": 1, "decoder_depth": 1},
    "ijepa": {"predictor_embed_dim": 32, "predictor_depth": 1, "predictor_num_heads": 4},
    "mocov3": {"hidden_dim": 32, "out_dim": 16},
    "supervised": {"num_classes": 4},
}
TARGET = {"beit": "mean_colour", "cae": "pixels"}  # for those whose own target needs the stage `tokenizer`


@pytest.fixture(params=sorted(METHODS))
def method(request):
    torch.manual_seed(0)
    encoder = build("vit_tiny_patch16_224", img_size=16, patch_size=PATCH, embed_dim=32, depth=2, num_heads=4)
    settings = dict(SMALL.get(request.param, {}))
    if request.param in TARGET:
        settings["target"] = build_target(TARGET[request.param], encoder)
    return METHODS[request.param](encoder, **settings)


@pytest.fixture
def batch(method):
    """The inputs before the noise, views and labels; and the noise, for methods that draw some."""
    torch.manual_seed(1)
    inputs = [torch.randn(4, 3, 16, 16) for _ in range(method.views)]
    inputs += [torch.tensor([0, 1, 2, 0])] if method.labels else []
    return inputs, {"noise": torch.rand(4, *method.noise_shape)} if method.noise_shape else {}


def test_a_method_says_what_it_needs(method):
    assert isinstance(method, Method)
    assert method.views >= 1
    assert method.masked == isinstance(method, MaskedMethod)
    assert method.masked <= bool(method.noise_shape)
    assert (method.masked and method.predicts) == isinstance(method, MaskedImageModeling)
    assert ("masked" in method.describe()) == method.masked
    section = Methods.model_fields[next(name for name, kind in METHODS.items() if kind is type(method))]
    assert getattr(section.annotation, "views", 1) == method.views


def test_the_loss_is_a_finite_scalar(method, batch):
    views, noise = batch
    loss = method(*views, **noise)["loss"]
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_the_loss_is_float32_under_autocast_and_close_to_the_plain_one(method, batch):
    views, noise = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = method(*views, **noise)["loss"]
    assert loss.dtype == torch.float32
    # A batch norm over four images enlarges what bf16 rounds.
    assert_close(loss, method(*views, **noise)["loss"], rtol=0.02 if method.views == 1 else 0.05, atol=0)


def test_it_compiles_to_one_graph_that_stays(method, batch):
    """A graph in two parts, or compiled in each step, would cost the time that `compile` should save."""
    views, noise = batch
    compiled = torch.compile(method, backend="eager", fullgraph=True)
    for stance in ("default", "fail_on_recompile", "fail_on_recompile"):
        with torch.compiler.set_stance(stance), torch.autocast("cpu", dtype=torch.bfloat16):
            loss = compiled(*views, **noise)["loss"]
            assert_close(loss, method(*views, **noise)["loss"], rtol=0, atol=0)
        loss.backward()
        method.after_step(0.5)


def test_every_trainable_part_gets_gradient_and_frozen_parts_get_none(method, batch):
    views, noise = batch
    method(*views, **noise)["loss"].backward()
    trainable = {name: p for name, p in method.named_parameters() if p.requires_grad}
    lost = [name for name, p in trainable.items() if p.grad is None or p.grad.abs().max() == 0]
    assert lost == []
    assert all(p.grad is None for p in method.parameters() if not p.requires_grad)


def test_the_same_seed_gives_the_same_loss_and_another_seed_another(method, batch):
    views, _ = batch
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(method(*views)["loss"])
    assert_close(losses[0], losses[1], rtol=0, atol=0)
    if method.noise_shape:
        assert losses[0] != losses[2]


def test_noise_fixes_the_mask_whatever_the_seed(method, batch):
    views, noise = batch
    torch.manual_seed(3)
    first = method(*views, **noise)["loss"]
    torch.manual_seed(4)
    assert_close(method(*views, **noise)["loss"], first, rtol=0, atol=0)


def test_forward_changes_no_state(method, batch):
    views, noise = batch
    before = copy.deepcopy(method.state_dict())
    method(*views, **noise)
    assert_close(method.state_dict(), before, rtol=0, atol=0)


def test_its_state_comes_back_whole(method, batch):
    views, noise = batch
    other = copy.deepcopy(method)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    other.load_state_dict(method.state_dict())
    assert_close(other(*views, **noise)["loss"], method(*views, **noise)["loss"], rtol=0, atol=0)


def test_it_learns_one_batch_and_what_is_frozen_stays_frozen(method, batch):
    views, noise = batch
    # What a method calls `teacher` learns by no gradient, but it moves.
    frozen = {
        name: p.clone()
        for name, p in method.named_parameters()
        if not p.requires_grad and not name.startswith("teacher.")
    }
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(60):
        loss = method(*views, **noise)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step((step + 1) / 60)
        losses.append(loss.detach().item())
    assert losses[-1] < 0.8 * losses[0]
    after = dict(method.named_parameters())
    for name, value in frozen.items():
        assert_close(after[name].data, value.data, rtol=0, atol=0)


def test_encoder_never_sees_a_masked_patch(method, batch):
    if not method.masked or isinstance(method, MPP):
        pytest.skip("it hides nothing, or (MPP) a masked patch may enter unchanged or as another's target")
    views, noise = batch
    mask = method.sample_mask(*views, **noise)
    predicted = method.predict(*views, mask)
    patches = patchify(views[0], PATCH)
    patches[mask.masked] += torch.randn_like(patches[mask.masked]) * 50
    noisy = unpatchify(patches, PATCH, GRID)
    assert_close(method.predict(noisy, mask), predicted, rtol=0, atol=0)
    patches = patchify(views[0], PATCH)
    patches[~mask.masked] += 1
    changed = method.predict(unpatchify(patches, PATCH, GRID), mask)
    assert (changed - predicted).abs().max() > 1e-3


def test_what_is_asked_of_a_prediction_is_what_comes_in_that_order(method, batch):
    if not (method.masked and method.predicts):
        pytest.skip("it predicts no masked patches")
    (images,), noise = batch
    mask = method.sample_mask(images, **noise)
    everywhere = method.predict(images, mask)
    assert everywhere.shape == (4, LENGTH, method.target.width)
    backwards = mask.masked_ids.flip(1)
    for wanted in (mask.masked_ids, mask.masked_ids.clone(), backwards, mask.visible_ids[:, :2]):
        assert_close(method.predict(images, mask, wanted), take(everywhere, wanted))


def test_noise_of_another_shape_is_refused(method, batch):
    if not method.noise_shape:
        pytest.skip("it draws nothing")
    views, noise = batch
    with pytest.raises(ValueError, match="noise has shape"):
        method(*views, noise=noise["noise"][:, :-1])


def test_its_cost_is_counted_and_is_no_less_than_that_of_encoding_what_is_visible(method, batch):
    views, noise = batch
    whole = training_flops(method, *views, *noise.values())
    encoding = 3 * 2 * 2 * 12 * 32 * 32  # forward and backward, two blocks, for each token
    assert whole > encoding * LENGTH // 4, "a quarter of the patches enters the encoder at least"
