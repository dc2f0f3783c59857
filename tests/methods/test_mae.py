"""MAE: equality with the authors' release, and what the release's reference file does not cover."""

import functools
import json
from pathlib import Path

import pytest
import torch
from reference import closed_form
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from mae.interchange import convert
from mae.methods import METHODS
from mae.models.masking import masking
from mae.models.patches import patchify, sincos_positions, unpatchify
from mae.models.targets import NormalisedPixels, build_target
from mae.models.vit import build, encode

REFERENCE = json.loads((Path(__file__).parent.parent / "reference" / "reference.json").read_text())
ENCODER = ("patch_size", "embed_dim", "depth", "num_heads")
METHOD = ("decoder_embed_dim", "decoder_depth", "decoder_num_heads")
tiny = functools.partial(build, "vit_tiny_patch16_224", embed_dim=32, depth=1, num_heads=4)


def predicting(encoder, *, mask_ratio=0.75, norm_pix=True, **settings):
    """MAE as the reference file says it."""
    hides = masking("random", encoder.patch_embed.grid_size, mask_ratio)
    predicts = build_target("normalised_pixels" if norm_pix else "pixels", encoder)
    return METHODS["mae"](encoder, masking=hides, target=predicts, **settings)


MAE = functools.partial(predicting, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=4)


def built(config):
    """The MAE of a reference case with its closed-form weights, and those under the release's names."""
    encoder = build("vit_tiny_patch16_224", img_size=config["image_size"], **{k: config[k] for k in ENCODER})
    settings = {key: config[key] for key in (*METHOD, "mask_ratio", "norm_pix")}
    method = predicting(encoder, **settings).to(getattr(torch, config["dtype"]))
    own = convert(method.state_dict(), "official")
    weights = closed_form.fill({k: tuple(v.shape) for k, v in own.items() if not k.endswith("pos_embed")})
    method.load_state_dict(convert(own | weights, "mae"))
    return method


def closed_form_inputs(config, length):
    dtype = getattr(torch, config["dtype"])
    images = closed_form.images(config["images"], config["image_size"]).to(dtype)
    return images, closed_form.noise(config["images"], length).to(dtype)


@pytest.mark.parametrize("case", [k for k, v in REFERENCE.items() if k.startswith("mae") and "loss" in v])
def test_it_equals_the_release(case):
    expected = REFERENCE[case]
    method = built(expected["cfg"])
    images, noise = closed_form_inputs(expected["cfg"], *method.noise_shape)
    single = expected["cfg"]["dtype"] == "float32"
    near = functools.partial(pytest.approx, rel=2e-5 if single else 1e-10)
    near_gradient = functools.partial(pytest.approx, rel=2e-5 if single else 1e-8)

    loss = method(images, noise)["loss"]
    assert loss.item() == near(expected["loss"])
    with torch.no_grad():
        predicted, mask = method.reconstruct(images, noise)
        latents = encode(method.encoder, images, mask.visible_ids)
    assert predicted.double().sum().item() == near(expected["pred_sum"])
    assert predicted.double().abs().sum().item() == near(expected["pred_abs"])
    assert latents.double().sum().item() == near(expected["latent_sum"])
    assert mask.visible_ids.shape[1] == expected["kept"]

    loss.backward()
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    gradients = convert(gradients, "official", "mae")
    found = {name: gradients[name].double().abs().sum().item() for name in expected["grad_abs"]}
    assert found == near_gradient(expected["grad_abs"])


def textbook(method, images, noise, mask_ratio):
    """MAE as in the paper: embed all, shuffle, drop, encode, unshuffle, decode all, predict all."""
    vit, decoder = method.encoder, method.decoder
    tokens = vit.patch_embed(images) + vit.pos_embed[:, 1:]
    n, length, width = tokens.shape
    kept = int(length * (1 - mask_ratio))
    shuffle = noise.argsort(1)
    restore = shuffle.argsort(1)
    tokens = tokens.gather(1, shuffle[:, :kept, None].expand(-1, -1, width))
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(n, -1, -1)
    latents = decoder.embed(vit.norm(vit.blocks(torch.cat([first, tokens], 1))))
    full = torch.cat([latents[:, 1:], decoder.mask_token.expand(n, length - kept, -1)], 1)
    full = full.gather(1, restore[..., None].expand(-1, -1, full.shape[-1]))
    full = torch.cat([latents[:, :1], full], 1) + decoder.pos_embed
    predicted = decoder.pred(decoder.norm(decoder.blocks(full)))[:, 1:]
    rows, columns = vit.patch_embed.patch_size
    target = torch.nn.functional.unfold(images, (rows, columns), stride=(rows, columns))
    target = target.unflatten(1, (vit.in_chans, rows * columns)).permute(0, 3, 2, 1).flatten(2)
    if isinstance(method.target, NormalisedPixels):
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    masked = (restore >= kept).to(predicted)
    return predicted, ((predicted - target) ** 2).mean(-1).mul(masked).sum() / masked.sum()


@pytest.mark.parametrize(
    "case",
    [
        {"img_size": (24, 40), "patch_size": 8},
        {"img_size": (24, 40), "patch_size": (8, 4), "norm_pix": False},
        {"img_size": 32, "patch_size": 8, "in_chans": 1, "mask_ratio": 0.5},
        {"img_size": 32, "patch_size": 8, "in_chans": 5, "mask_ratio": 0.9},
        {"img_size": 56, "patch_size": 14, "norm_pix": False},
        {"img_size": 48, "patch_size": 16, "mlp_ratio": 2.0, "init_values": 0.1, "mask_ratio": 0.6},
    ],
    ids=str,
)
def test_it_equals_the_textbook_algorithm_at_any_size(case):
    torch.manual_seed(0)
    settings = {key: case[key] for key in ("mask_ratio", "norm_pix") if key in case}
    method = MAE(tiny(**{k: v for k, v in case.items() if k not in settings}), **settings).double()
    vit = method.encoder
    images = torch.randn(3, vit.in_chans, *vit.patch_embed.img_size, dtype=torch.float64)
    noise = torch.rand(3, vit.patch_embed.num_patches, dtype=torch.float64)
    predicted, loss = textbook(method, images, noise, settings.get("mask_ratio", 0.75))
    names = [name for name, p in method.named_parameters() if p.requires_grad]
    parameters = [p for p in method.parameters() if p.requires_grad]
    ours = method(images, noise)["loss"]
    assert_close(ours, loss, rtol=1e-12, atol=0)
    assert_close(method.reconstruct(images, noise)[0], predicted, rtol=1e-10, atol=1e-12)
    expected = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    found = dict(zip(names, torch.autograd.grad(ours, parameters), strict=True))
    assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_mae_base_has_the_papers_number_of_parameters():
    with torch.device("meta"):
        method = METHODS["mae"](build("vit_base_patch16_224", img_size=224))
    assert sum(p.numel() for p in method.parameters()) == 111_907_840
    assert method.masking.num_masked == 147
    assert [name for name, p in method.named_parameters() if not p.requires_grad] == [
        "encoder.pos_embed",
        "decoder.pos_embed",
    ]


def flops(compute):
    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("name", "ratio"), [("vit_base_patch16_224", 2.34), ("vit_large_patch16_224", 3.22)], ids=str
)
def test_leaving_mask_tokens_out_of_the_encoder_saves_the_papers_share(name, ratio):
    with torch.device("meta"), torch.no_grad():
        method = METHODS["mae"](build(name, img_size=224))
        with_tokens = METHODS["mae"](build(name, img_size=224), mask_tokens="encoder")
        images, noise = torch.randn(1, 3, 224, 224), torch.rand(1, 196)
        whole = flops(lambda: textbook(method, images, noise, 0.75))
        ours = flops(lambda: method(images, noise))
        assert flops(lambda: with_tokens.reconstruct(images, noise)) / whole == pytest.approx(ratio, rel=0.01)
    assert 0.98 * whole < ours < 0.995 * whole  # visible-only embedding, masked-only head


def test_the_decoders_blocks_cost_a_token_8_6_percent_of_vit_larges():
    with torch.device("meta"), torch.no_grad():
        method = METHODS["mae"](build("vit_large_patch16_224", img_size=224))
        light = flops(lambda: method.decoder.blocks(torch.randn(1, 197, 512)))
        heavy = flops(lambda: method.encoder.blocks(torch.randn(1, 197, 1024)))
    assert light / heavy == pytest.approx(0.086, abs=5e-4)


def test_a_mask_token_in_the_encoder_hides_a_patch_and_is_learned_there():
    method = MAE(tiny(img_size=16, patch_size=4), mask_tokens="encoder")
    images, noise = torch.randn(2, 3, 16, 16), torch.rand(2, 16)
    assert method.decoder.mask_token is None
    method(images, noise)["loss"].backward()
    assert method.mask_token.grad.abs().max() > 0
    predicted, mask = method.reconstruct(images, noise)
    patches = patchify(images, 4)
    patches[mask.masked] = 7.0
    assert_close(method.reconstruct(unpatchify(patches, 4, (4, 4)), noise)[0], predicted, rtol=0, atol=0)
    with pytest.raises(ValueError, match="mask_tokens 'both': choose decoder or encoder"):
        MAE(tiny(img_size=16, patch_size=4), mask_tokens="both")


def test_both_position_tables_are_the_fixed_sine_cosine_ones():
    method = MAE(tiny(img_size=(8, 12), patch_size=4))
    for table in (method.encoder.pos_embed, method.decoder.pos_embed):
        assert_close(table.data[0, 1:], sincos_positions(32, (2, 3)), rtol=0, atol=0)
        assert table[0, 0].count_nonzero() == 0


def test_it_initialises_the_encoder_unless_fresh_is_false():
    encoder = tiny(img_size=16, patch_size=4)
    before = encoder.blocks[0].mlp.fc1.weight.detach().clone()
    MAE(encoder, fresh=False)
    assert_close(encoder.blocks[0].mlp.fc1.weight.detach(), before, rtol=0, atol=0)
    MAE(encoder)
    assert (encoder.blocks[0].mlp.fc1.weight.detach() - before).abs().max() > 0.01


def test_an_encoder_with_a_head_or_average_pooling_is_refused():
    for settings in ({"num_classes": 10}, {"pool": "avg"}):
        with pytest.raises(ValueError, match="num_classes=0"):
            MAE(tiny(img_size=16, patch_size=4, **settings))


def test_decoder_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="decoder_num_heads 5"):
        MAE(tiny(img_size=16, patch_size=4), decoder_num_heads=5)
    with pytest.raises(ValueError, match="divisible by 4"):
        MAE(tiny(img_size=16, patch_size=4), decoder_embed_dim=30, decoder_num_heads=5)


def test_the_loss_is_float64_for_float64_and_float32_for_bfloat16():
    method = MAE(tiny(img_size=16, patch_size=4))
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        images = torch.randn(2, 3, 16, 16, dtype=dtype)
        assert method.to(dtype)(images)["loss"].dtype == expected


def test_shapes_do_not_depend_on_data():
    method = MAE(tiny(img_size=16, patch_size=4))
    images, noise = torch.randn(2, 3, 16, 16), torch.rand(2, 16)
    exported = torch.export.export(method, (images, noise))
    assert_close(exported.module()(images, noise)["loss"], method(images, noise)["loss"])
    targets = {str(node.target) for node in exported.graph.nodes}
    assert not any("aten.item" in name or "_local_scalar_dense" in name for name in targets)  # host syncs


def test_the_target_of_a_masked_patch_is_its_own_pixels():
    method = MAE(tiny(img_size=16, patch_size=4), norm_pix=False)
    images, noise = torch.randn(2, 3, 16, 16), torch.rand(2, 16)
    predicted, mask = method.reconstruct(images, noise)
    error = (predicted - patchify(images, 4)).square().mean(-1)
    assert_close(method(images, noise)["loss"], error[mask.masked].mean())
