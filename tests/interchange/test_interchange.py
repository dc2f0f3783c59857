"""Checkpoints in and out: exact, strict, and closed to code."""

import argparse
import json
import os
import pickle

import pytest
import timm
import torch
from torch.testing import assert_close

from mae.files import DiskFull
from mae.interchange import convert, detect, export, import_, load_encoder, read, save_encoder
from mae.methods import METHODS
from mae.models.pca import PatchPCA
from mae.models.targets import build_target
from mae.models.vit import build, encode

SIZES = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0, "in_chans": 3}
CONFIG = {"name": "vit_tiny_patch16_224", "img_size": 16, "mean": [0.5] * 3, "std": [0.25] * 3} | SIZES
exactly = {"rtol": 0, "atol": 0}


def randomise(module):
    """Every weight random, the tables and biases too, so that no mix-up can hide."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2)
    return module


@pytest.fixture(scope="module")
def method():
    torch.manual_seed(0)
    encoder = build(CONFIG["name"], img_size=16, **(SIZES | {"mlp_ratio": 4.0}))
    return randomise(
        METHODS["mae"](encoder, decoder_embed_dim=16, decoder_depth=2, decoder_num_heads=2)
    ).double()


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(1)
    return randomise(build(CONFIG["name"], img_size=16, **SIZES)).eval()


@pytest.fixture
def encoder_file(vit, tmp_path):
    save_encoder(tmp_path / "encoder.safetensors", vit.state_dict(), CONFIG)
    return tmp_path / "encoder.safetensors"


@pytest.mark.parametrize("kind", ["official", "hf"])
def test_a_full_model_comes_back_exactly(method, kind):
    own = method.state_dict()
    assert detect(own) == "mae"
    foreign = convert(own, kind)
    assert detect(foreign) == kind
    assert_close(convert(foreign, "mae"), dict(own), **exactly)
    assert set(convert(convert(foreign, "mae"), kind)) == set(foreign)


@pytest.mark.parametrize("kind", ["timm", "hf_encoder"])
def test_an_encoder_comes_back_exactly(vit, kind):
    foreign = convert(vit.state_dict(), kind)
    assert detect(foreign) == kind
    assert_close(convert(foreign, "timm"), dict(vit.state_dict()), **exactly)


def test_a_full_model_gives_its_encoder_away_and_an_encoder_never_becomes_a_full_model(method):
    for kind in ("mae", "official", "hf"):
        encoder = convert(convert(method.state_dict(), kind), "timm")
        assert_close(encoder, dict(method.encoder.state_dict()), **exactly)
    with pytest.raises(ValueError, match="no decoder"):
        convert(method.encoder.state_dict(), "official")
    with pytest.raises(ValueError, match="kind 'flax' is not one of"):
        convert(method.encoder.state_dict(), "flax")


@pytest.mark.parametrize("older", [False, True])
def test_what_a_target_was_fitted_to_is_nobodys_weight(older):
    encoder = build(CONFIG["name"], img_size=16, **(SIZES | {"mlp_ratio": 4.0}))
    target = build_target("pca", encoder, PatchPCA((4, 4), (4, 4), components=5))
    state = METHODS["mae"](encoder, target=target, decoder_embed_dim=16, decoder_num_heads=2).state_dict()
    if older:
        state |= {f"target.pca.{name}": value for name, value in target.fitted.state_dict().items()}
    assert set(convert(state, "timm")) == set(encoder.state_dict())
    assert set(convert(convert(state, "official"), "timm")) == set(encoder.state_dict())
    assert not [name for name in convert(state, "hf") if "target" in name]


def test_the_releases_names_are_those_of_its_files(method):
    official = set(convert(method.state_dict(), "official"))
    assert {
        "cls_token",
        "pos_embed",
        "mask_token",
        "decoder_pos_embed",
        "patch_embed.proj.weight",
        "blocks.1.attn.qkv.bias",
        "norm.weight",
        "decoder_embed.weight",
        "decoder_blocks.1.mlp.fc2.bias",
        "decoder_norm.bias",
        "decoder_pred.weight",
    } <= official
    assert not any(name.startswith(("encoder.", "decoder.")) for name in official)


def hugging_face(cls, **changes):
    transformers = pytest.importorskip("transformers")
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "layer_norm_eps": 1e-6,
        "image_size": 16,
        "patch_size": 4,
        "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 2,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 64,
        "norm_pix_loss": True,
        "attn_implementation": "sdpa",  # its own softmax is float32 whatever the inputs
    }
    return getattr(transformers, cls)(transformers.ViTMAEConfig(**(settings | changes)))


def test_hugging_faces_model_with_our_weights_gives_our_loss_and_predictions(method, tmp_path):
    """Through a file under the hub's names, as every version of transformers reads it."""
    peer = hugging_face("ViTMAEForPreTraining")
    peer.config.save_pretrained(tmp_path)
    weights = {name: value.contiguous() for name, value in convert(method.state_dict(), "hf").items()}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    kind, state = read(tmp_path)
    assert kind == "hf"
    peer, info = type(peer).from_pretrained(
        tmp_path, output_loading_info=True, dtype=torch.float64, attn_implementation="sdpa"
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    images, noise = torch.randn(3, 3, 16, 16).double(), torch.rand(3, 16).double()
    with torch.no_grad():
        theirs = peer(images, noise=noise)
        assert_close(method(images, noise)["loss"], theirs.loss, rtol=1e-12, atol=0)
        assert_close(method.reconstruct(images, noise)[0], theirs.logits, rtol=1e-9, atol=1e-12)
    assert_close(convert(state, "mae"), dict(method.state_dict()), **exactly)
    assert_close(convert(peer.state_dict(), "mae"), dict(method.state_dict()), **exactly)


def test_an_encoder_exported_to_hugging_face_gives_the_same_tokens(vit, encoder_file, tmp_path):
    transformers = pytest.importorskip("transformers")
    export(encoder_file, tmp_path / "hf", "hf")
    peer, info = transformers.ViTMAEModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    images, ascending = torch.randn(2, 3, 16, 16), torch.linspace(0, 1, 16).expand(2, -1)
    with torch.no_grad():
        theirs = peer.eval()(images, noise=ascending).last_hidden_state
        assert_close(theirs, encode(vit, images), rtol=1e-4, atol=1e-5)
    config = import_(
        tmp_path / "hf", tmp_path / "back.safetensors", num_heads=4, mean=[0.5] * 3, std=[0.25] * 3
    )
    assert config["depth"] == 2
    assert_close(load_encoder(tmp_path / "back.safetensors")[0], dict(vit.state_dict()), **exactly)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_an_encoder_exported_to_timm_loads_strictly_and_gives_the_same_features(
    vit, encoder_file, tmp_path, name
):
    export(encoder_file, tmp_path / name, "timm")
    plain = timm.create_model(
        CONFIG["name"], num_classes=0, img_size=16, checkpoint_path=str(tmp_path / name), **SIZES
    ).eval()
    images = torch.randn(2, 3, 16, 16)
    assert_close(plain.forward_features(images), encode(vit, images), **exactly)
    assert_close(plain(images), encode(vit, images)[:, 0], **exactly)


def test_an_encoder_goes_to_the_official_format_and_back(vit, encoder_file, tmp_path):
    export(encoder_file, tmp_path / "official.pth", "official")
    assert set(torch.load(tmp_path / "official.pth", weights_only=True)) == {"model"}
    config = import_(
        tmp_path / "official.pth",
        tmp_path / "back.safetensors",
        name=CONFIG["name"],
        num_heads=4,
        mean=[0.5] * 3,
        std=[0.25] * 3,
    )
    assert config == CONFIG
    assert_close(load_encoder(tmp_path / "back.safetensors")[0], dict(vit.state_dict()), **exactly)


def test_an_official_training_checkpoint_is_read_with_its_command_line(method, tmp_path):
    official = {name: value.float() for name, value in convert(method.state_dict(), "official").items()}
    content = {"model": official, "epoch": 799, "args": argparse.Namespace(mask_ratio=0.75, model="mae")}
    torch.save(content, tmp_path / "mae_pretrain_full.pth")
    kind, state = read(tmp_path / "mae_pretrain_full.pth")
    assert kind == "official"
    assert_close(state, official, **exactly)
    import_(tmp_path / "mae_pretrain_full.pth", tmp_path / "encoder.safetensors", num_heads=4)
    loaded, config = load_encoder(tmp_path / "encoder.safetensors")
    assert_close(
        loaded, {name: value.float() for name, value in method.encoder.state_dict().items()}, **exactly
    )
    assert config["mean"] == pytest.approx([0.485, 0.456, 0.406])


def test_a_fine_tuned_checkpoint_gives_its_encoder_without_the_head(tmp_path):
    tuned = build(CONFIG["name"], img_size=16, pool="avg", num_classes=7, **SIZES)
    torch.save({"model": tuned.state_dict()}, tmp_path / "tuned.pth")
    import_(tmp_path / "tuned.pth", tmp_path / "encoder.safetensors", num_heads=4)
    state = load_encoder(tmp_path / "encoder.safetensors")[0]
    assert_close(state["norm.weight"], tuned.fc_norm.weight.detach())
    assert not any(name.startswith(("head", "fc_norm")) for name in state)


def test_import_at_another_size_resamples_positions(vit, encoder_file, tmp_path):
    config = import_(encoder_file, tmp_path / "large.safetensors", num_heads=4, img_size=(24, 16))
    assert config["img_size"] == [24, 16]
    state = load_encoder(tmp_path / "large.safetensors")[0]
    assert state["pos_embed"].shape == (1, 25, 32)
    assert_close(state["blocks.0.mlp.fc1.weight"], vit.state_dict()["blocks.0.mlp.fc1.weight"])


def test_sizes_the_weights_do_not_tell_are_asked_for(vit, encoder_file, tmp_path):
    out, bare = tmp_path / "out.safetensors", tmp_path / "bare.pth"
    torch.save(vit.state_dict(), bare)
    with pytest.raises(ValueError, match="give --num-heads"):
        import_(bare, out)
    with pytest.raises(ValueError, match="its width is 32, that of vit_base_patch16_224 768"):
        import_(encoder_file, out, name="vit_base_patch16_224")
    oblong = build(CONFIG["name"], img_size=(8, 20), **(SIZES | {"in_chans": 5}))
    torch.save(oblong.state_dict(), tmp_path / "oblong.pth")
    with pytest.raises(ValueError, match="10 positions are no square grid: give --img-size"):
        import_(tmp_path / "oblong.pth", out, num_heads=4)
    with pytest.raises(ValueError, match="5 channels: give the mean"):
        import_(tmp_path / "oblong.pth", out, num_heads=4, img_size=(8, 20))
    assert not out.exists()
    config = import_(
        tmp_path / "oblong.pth", out, num_heads=4, img_size=(8, 20), mean=[0.5] * 5, std=[0.5] * 5
    )
    assert (config["img_size"], config["in_chans"]) == ([8, 20], 5)


def test_the_encoder_file_says_what_it_is(vit, encoder_file):
    state, config = load_encoder(encoder_file)
    assert config == CONFIG
    assert_close(state, dict(vit.state_dict()), **exactly)
    assert os.listdir(encoder_file.parent) == [encoder_file.name]


def test_weights_that_are_not_the_configs_are_not_saved(vit, tmp_path):
    state = dict(vit.state_dict())
    wrong = [
        (state | {"mask_token": torch.zeros(1, 1, 32)}, "unexpected: mask_token"),
        ({k: v for k, v in state.items() if k != "norm.bias"}, "missing: norm.bias"),
        (state | {"cls_token": torch.zeros(1, 1, 31)}, r"cls_token is \(1, 1, 31\) instead of \(1, 1, 32\)"),
    ]
    for broken, message in wrong:
        with pytest.raises(ValueError, match=message):
            save_encoder(tmp_path / "encoder.safetensors", broken, CONFIG)
    with pytest.raises(ValueError, match="lacks mean, std"):
        save_encoder(tmp_path / "encoder.safetensors", state, {"name": CONFIG["name"], "img_size": 16})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(vit, encoder_file, monkeypatch):
    before = encoder_file.read_bytes()

    def full_disk(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(DiskFull, match=rf"{encoder_file.name}: no space left"):
        save_encoder(encoder_file, vit.state_dict(), CONFIG)
    assert encoder_file.read_bytes() == before
    assert os.listdir(encoder_file.parent) == [encoder_file.name]


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}, "args": Bomb()}, tmp_path / "bomb.pth")
    with pytest.raises(ValueError, match=r"bomb\.pth: refused.*could run code \(it refers to \w+\.system"):
        read(tmp_path / "bomb.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"plain\.pth"):
        read(tmp_path / "plain.pth")
    assert not (tmp_path / "exploded").exists()


def test_what_cannot_be_read_is_named(encoder_file, tmp_path):
    whole = encoder_file.read_bytes()
    files = {
        "cut.safetensors": (whole[: len(whole) // 2], "not a readable safetensors file"),
        "notes.txt": (b"hello", "no checkpoint, but a text that begins with 'hello'"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            read(tmp_path / name)
    with pytest.raises(ValueError, match="no such file"):
        read(tmp_path / "absent.pth")
    torch.save({"layer.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: weights of no known kind \(layer\.weight"):
        read(tmp_path / "other.pth")
    torch.save({"model": {"epoch": 3}}, tmp_path / "numbers.pth")
    with pytest.raises(ValueError, match="holds no tensors; its entries: model"):
        read(tmp_path / "numbers.pth")


def test_a_timm_file_without_config_is_no_encoder_file(vit, tmp_path):
    from safetensors.torch import save_file

    save_file(vit.state_dict(), tmp_path / "timm.safetensors")
    with pytest.raises(ValueError, match="no config in it"):
        load_encoder(tmp_path / "timm.safetensors")
    save_file(vit.state_dict(), tmp_path / "wrong.safetensors", {"config": json.dumps(CONFIG | {"depth": 3})})
    with pytest.raises(ValueError, match=r"missing: blocks\.2"):
        load_encoder(tmp_path / "wrong.safetensors")


def test_incomplete_hugging_face_attention_is_named(method):
    state = convert(method.state_dict(), "hf")
    del state["vit.encoder.layer.0.attention.attention.key.bias"]
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.k\.bias"):
        convert(state, "mae")


def test_layer_scale_survives_import_and_is_refused_by_hugging_face(tmp_path):
    scaled = randomise(build(CONFIG["name"], img_size=16, init_values=0.1, **SIZES))
    torch.save(scaled.state_dict(), tmp_path / "scaled.pth")
    import_(tmp_path / "scaled.pth", tmp_path / "scaled.safetensors", num_heads=4)
    assert_close(load_encoder(tmp_path / "scaled.safetensors")[0], dict(scaled.state_dict()), **exactly)
    with pytest.raises(ValueError, match="no LayerScale"):
        export(tmp_path / "scaled.safetensors", tmp_path / "hf", "hf")
    with pytest.raises(ValueError, match="format 'onnx' is not one of"):
        export(tmp_path / "scaled.safetensors", tmp_path / "x", "onnx")
