"""CAE: equality with the authors' release, and what its paper says of its parts."""

import json
from pathlib import Path

import pytest
import torch
from reference import closed_form
from torch.nn import functional as F
from torch.testing import assert_close

from mae.methods import METHODS
from mae.methods.pictures import pictures
from mae.models.masking import masking
from mae.models.patches import patchify, unpatchify
from mae.models.targets import Target, build_target
from mae.models.tokenizer import KMeans
from mae.models.vit import build, encode

REFERENCE = json.loads((Path(__file__).parent.parent / "reference" / "reference.json").read_text())
RENAMED = (  # ours -> the release's
    ("regressor.mask_token", "mask_token"),
    ("regressor.blocks.", "regresser.regressor_blocks."),
    ("regressor.norm.", "regresser.norm."),
    ("decoder.blocks.", "decoder.decoder_blocks."),
    ("decoder.pred.", "decoder.head."),
    (".ls1.gamma", ".gamma_1"),
    (".ls2.gamma", ".gamma_2"),
)
IN_REGRESSOR = (
    (".norm_query.", ".norm1_q."),
    (".norm_key.", ".norm1_k."),
    (".norm_value.", ".norm1_v."),
    (".norm.", ".norm2_cross."),
    (".attn.", ".cross_attn."),
    (".out_proj.", ".proj."),
    (".mlp.", ".mlp_cross."),
    (".scale_attn.gamma", ".gamma_1_cross"),
    (".scale_mlp.gamma", ".gamma_2_cross"),
)


class GivenTokens(Target):
    """The reference's tokens, whatever the images."""

    def forward(self, images):
        return closed_form.tokens(len(images), len(patchify(images[:1], self.patch_size)[0]), self.width)

    def loss(self, predicted, target):
        return F.cross_entropy(predicted.flatten(0, 1), target.flatten())


def renamed(tensors):
    """Views of our tensors under the release's names: queries, keys and values apart, no bias of keys."""
    found = {}
    for name, value in tensors.items():
        for ours, theirs in (*RENAMED, *(IN_REGRESSOR if "regressor.blocks." in name else ())):
            name = name.replace(ours, theirs)
        query, key, number = value.chunk(3) if "qkv.bias" in name or "in_proj" in name else (None,) * 3
        if name.endswith("in_proj_weight"):
            parts = zip("qkv", (query, key, number), strict=True)
            found |= {name.replace("in_proj_weight", f"{letter}.weight"): part for letter, part in parts}
        elif query is not None:
            stem = name.rpartition(".attn." if "qkv" in name else ".cross_attn.")
            found |= {f"{''.join(stem[:2])}q_bias": query, f"{''.join(stem[:2])}v_bias": number}
        elif not name.endswith("pos_embed"):
            found[name] = value
    return found


def release_positions(width, side):
    """The release's table (side * side, width): rows first, all of it computed in float32."""
    frequencies = 1 / 10000 ** (torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    row, column = torch.meshgrid(*[torch.arange(side, dtype=torch.float32)] * 2, indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (row, column)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)


@pytest.mark.parametrize("case", [name for name in REFERENCE if name.startswith("cae")])
def test_it_equals_the_release(case):
    expected = REFERENCE[case]
    config = expected["cfg"]
    vit = build(
        "vit_tiny_patch16_224",
        img_size=config["image_size"],
        init_values=config["layer_scale"],
        **{key: config[key] for key in ("patch_size", "embed_dim", "depth", "num_heads")},
    )
    method = METHODS["cae"](
        vit,
        masking=masking("random", vit.patch_embed.grid_size, config["num_masked"]),
        target=GivenTokens(vit.patch_embed.patch_size, config["vocabulary"]),
        init_values=config["layer_scale"],
        **{key: config[key] for key in ("regressor_depth", "decoder_depth", "alignment_weight")},
    ).double()
    weights = renamed(method.state_dict())
    filled = closed_form.fill({name: tuple(value.shape) for name, value in weights.items()})
    with torch.no_grad():
        for name, value in method.named_parameters():
            if name.endswith(("qkv.bias", "in_proj_bias")):
                value.zero_()
        for name, value in weights.items():
            value.copy_(filled[name])
        method.encoder.pos_embed[0, 1:] = release_positions(config["embed_dim"], vit.patch_embed.grid_size[0])
    images = closed_form.images(config["images"], config["image_size"])
    noise = closed_form.noise(config["images"], *method.noise_shape)

    near = {"rel": 1e-10}
    losses = method(images, noise)
    assert losses["prediction_loss"].item() == pytest.approx(expected["token_loss"], **near)
    assert losses["alignment_loss"].item() == pytest.approx(expected["alignment_loss"], **near)
    assert losses["loss"].item() == pytest.approx(expected["loss"], **near)
    mask = method.sample_mask(images, noise)
    assert mask.masked_ids.shape[1] == config["num_masked"]
    found = {
        "logits_abs": method.predict(images, mask, mask.masked_ids),
        "latent_abs": method.regress(images, mask),
        "target_abs": method.alignment_target(images, mask),
    }
    for name, value in found.items():
        assert value.abs().sum().item() == pytest.approx(expected[name], **near), name
    losses["loss"].backward()
    gradients = renamed({name: p.grad for name, p in method.named_parameters() if p.grad is not None})
    sums = {name: gradients[name].abs().sum().item() for name in expected["grad_abs"]}
    assert sums == pytest.approx(expected["grad_abs"], rel=1e-8)


def small(target="pixels", fitted=None, **settings):
    torch.manual_seed(0)
    vit = build(
        "vit_tiny_patch16_224",
        img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=4, init_values=0.1,
    )  # fmt: skip
    settings = {"regressor_depth": 1, "decoder_depth": 1} | settings
    return METHODS["cae"](
        vit, target=build_target(target, vit, fitted), masking=masking("block", (4, 4), 0.5), **settings
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    smooth = F.interpolate(torch.randn(16, 3, 4, 4, generator=generator), scale_factor=4, mode="bilinear")
    return smooth, torch.rand(16, 4 * 20 + 16, generator=generator)


def test_alignment_reaches_the_encoder_by_the_regressed_latents_alone(batch):
    images, noise = batch
    method = small()
    mask = method.sample_mask(images, noise)
    target = method.alignment_target(images, mask)
    assert not target.requires_grad
    expected = F.mse_loss(method.regress(images, mask), target)
    names = [name for name, p in method.named_parameters() if p.requires_grad and "decoder" not in name]
    weights = [p for name, p in method.named_parameters() if name in names]
    ours = torch.autograd.grad(method(images, noise)["alignment_loss"], weights)
    assert_close(ours, torch.autograd.grad(expected, weights))


def test_the_alignment_target_is_the_same_encoder_on_the_masked_patches_alone(batch):
    images, noise = batch
    method = small()
    mask = method.sample_mask(images, noise)
    target = method.alignment_target(images, mask)
    assert_close(target, encode(method.encoder, images, mask.masked_ids)[:, 1:].detach())
    patches = patchify(images, 4)
    patches[~mask.masked] = 9.0
    assert_close(method.alignment_target(unpatchify(patches, 4, (4, 4)), mask), target)


def test_the_regressor_leaves_the_visible_latents_as_they_are(batch):
    method = small(regressor_depth=3)
    visible, where, there = torch.randn(2, 8, 32), torch.randn(2, 8, 32), torch.randn(2, 8, 32)
    seen, before = [], visible.clone()
    for block in method.regressor.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    method.regressor(visible, where, there)
    assert len(seen) == 3
    for latents in seen:
        assert_close(latents, before, rtol=0, atol=0)


def test_the_decoder_sees_no_visible_latent(batch):
    images, noise = batch
    method = small()
    sizes = []
    method.decoder.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[1]))
    method(images, noise)
    assert sizes == [method.masking.num_masked]


def spread_kept(loss):
    """Variance of the encoder's latents over patches and images, after training on `loss`, as a share."""
    generator = torch.Generator().manual_seed(1)

    def smooth(count):
        colours = torch.randn(count, 3, 2, 2, generator=generator)
        return F.interpolate(colours, size=(16, 16), mode="bilinear")

    def spread():
        with torch.no_grad():
            return encode(method.encoder, images)[:, 1:].flatten(0, 1).var(0).mean().item()

    images, tokenizer = smooth(64), KMeans((4, 4), (4, 4), codes=32)
    tokenizer.start(tokenizer.vectors(images).flatten(0, 1), seed=0)
    method = small("tokens", tokenizer)
    optimizer = torch.optim.AdamW(
        [p for p in method.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.05
    )
    before = spread()
    torch.manual_seed(0)
    for _ in range(300):
        optimizer.zero_grad()
        method(smooth(32), torch.rand(32, *method.noise_shape))[loss].backward()
        optimizer.step()
    return spread() / before


def test_alignment_alone_collapses_and_with_the_tokens_it_does_not():
    assert spread_kept("alignment_loss") < 0.5
    assert spread_kept("loss") > 0.65


def test_with_pixels_as_target_the_encoders_own_latents_decode_to_the_image(batch):
    """The paper's figure 4: regressed and encoded latents are in one space."""
    images, noise = batch
    method = small(decoder_depth=2)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(300):
        noise = torch.rand(16, *method.noise_shape)
        optimizer.zero_grad()
        method(images, noise)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        error = (method.autoencode(images) - patchify(images, 4)).square().mean()
    assert error < 0.5 * images.var()


def test_the_picture_of_the_own_latents_stands_beside_the_reconstruction(batch):
    images, noise = batch
    method = small("normalised_pixels")
    shown = pictures(method, images, noise, (0.5,) * 3, (0.25,) * 3)
    assert shown.columns == ("original", "masked", "reconstruction", "own latents")
    assert shown.panels.shape == (16, 4, 3, 16, 16)
    assert "the encoder itself" in method.picture_note
    with torch.no_grad():
        own = method.target.as_pixels(method.eval().autoencode(images), patchify(images, 4))
    assert_close(shown.panels[:, 3], (unpatchify(own, 4, (4, 4)) * 0.25 + 0.5).clamp(0, 1))


def test_its_loss_adds_the_alignment_with_its_weight(batch):
    losses = small(alignment_weight=3.0)(*batch)
    assert_close(losses["loss"], losses["prediction_loss"] + 3 * losses["alignment_loss"])
