"""Checkpoints as they are found: wrapped, several in a file, of any ending, with other values, damaged."""

import io
import json
import tarfile
import zipfile
from argparse import Namespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from mae.interchange import convert, export, import_, load_encoder, read, save_encoder, save_weights
from mae.models.vit import build

CONFIG = {
    "name": "vit_tiny_patch16_224", "img_size": [8, 12], "patch_size": 4, "embed_dim": 32, "depth": 2,
    "num_heads": 4, "mlp_ratio": 2.0, "in_chans": 3, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3],
}  # fmt: skip
GIVEN = {"num_heads": 4, "img_size": (8, 12)}


@pytest.fixture(scope="module")
def weights():
    """The weights of an encoder."""
    torch.manual_seed(0)
    sizes = {key: value for key, value in CONFIG.items() if key not in ("mean", "std")}
    return {name: torch.randn_like(value) for name, value in build(**sizes).state_dict().items()}


@pytest.fixture
def imported(tmp_path):
    """Import what a file holds, given as what torch.save takes or as bytes: (weights, config)."""

    def of(content, name="weights.pth", **given):
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            torch.save(content, tmp_path / name)
        import_(tmp_path / name, tmp_path / "out.safetensors", **given)
        return load_encoder(tmp_path / "out.safetensors")

    return of


def under(prefix, weights, plus=0.0):
    return {prefix + name: value + plus for name, value in weights.items()}


@pytest.mark.parametrize(
    "prefix",
    [
        "backbone.",
        "encoder.",
        "model.",
        "student.",
        "teacher.backbone.",
        "module.base_encoder.",
        "_orig_mod.module.model.encoder.vit.",
    ],
)
@pytest.mark.parametrize("kind", ["timm", "hf_encoder"])
def test_an_encoder_is_found_under_any_prefix(prefix, kind, weights, imported):
    names = under(prefix, convert(weights, kind))
    others = {"predictor.0.weight": torch.zeros(2)}
    for content in (names | others, {"state_dict": names | others, "epoch": 3}):
        assert_close(imported(content, **GIVEN)[0], weights, rtol=0, atol=0)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod."])
def test_wrappers_are_no_part_of_a_name(wrapper, weights, imported):
    tuned = under(wrapper, weights | {"head.weight": torch.zeros(2, 32)})
    for content in (tuned, {"model": tuned}):
        assert_close(imported(content, **GIVEN)[0], weights, rtol=0, atol=0)
    compiled = {name.replace("blocks.1.", "blocks.1._orig_mod."): value for name, value in weights.items()}
    assert compiled.keys() != weights.keys()
    assert_close(imported(compiled, **GIVEN)[0], weights, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("taken", "other"),
    [
        ("module.base_encoder.", "module.momentum_encoder."),  # MoCo v3
        ("teacher.backbone.", "student.module.backbone."),  # DINO
        ("target_encoder.module.", "encoder.module."),  # I-JEPA
        ("method.encoder.", "method.teacher.encoder."),  # a checkpoint of ours
        ("ema.module.encoder.", "method.encoder."),  # the same, with a moving average
        ("model.", "model_ema."),
        ("state_dict.", "state_dict_ema."),
    ],
)
def test_of_several_encoders_that_which_is_evaluated_is_taken_and_another_on_demand(
    taken, other, weights, imported, caplog
):
    content = under(other, weights, 1.0) | under(taken, weights)
    assert_close(imported(content, **GIVEN)[0], weights, rtol=0, atol=0)
    if other != "method.teacher.encoder.":  # a part of the method
        assert "--prefix takes another" in caplog.text
        asked = imported(content, prefix=other.replace("module.", ""), **GIVEN)[0]
        assert_close(asked["cls_token"], weights["cls_token"] + 1)


def test_encoders_of_which_none_is_better_are_named(weights, imported):
    content = under("left.", weights) | under("right.", weights)
    with pytest.raises(ValueError, match=r"choose one by --prefix: left, right"):
        imported(content, **GIVEN)
    assert imported(content, prefix="right", **GIVEN)
    with pytest.raises(
        ValueError, match=r"no known model lies under the prefix 'up'; there are: left, right"
    ):
        imported(content, prefix="up", **GIVEN)
    with pytest.raises(ValueError, match=r"two weights are called cls_token"):
        imported(under("module.", weights) | weights, **GIVEN)


@pytest.mark.parametrize("name", ["a.pth.tar", "a.pth", "a.safetensors", "a.PT", "a.model", "a"])
def test_the_content_says_what_a_file_is_not_its_ending(name, weights, imported, tmp_path):
    save_file(weights, tmp_path / "safe")
    legacy = io.BytesIO()
    torch.save({"model": weights}, legacy, _use_new_zipfile_serialization=False)
    for content in (weights, (tmp_path / "safe").read_bytes(), legacy.getvalue()):
        assert_close(imported(content, name, **GIVEN)[0], weights, rtol=0, atol=0)


def test_plain_values_next_to_the_weights_are_no_reason_to_refuse(weights, imported, tmp_path):
    beside = {
        "args": Namespace(out=tmp_path),
        "best": np.float64(0.8),
        "epoch": np.int64(3),
        "done": np.bool_(True),
        "rng": np.arange(5),
    }
    file = io.BytesIO()
    torch.save({"model": weights, **beside}, file, _use_new_zipfile_serialization=False)
    older = file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")
    assert older != file.getvalue()
    for content in ({"model": weights, **beside}, older):
        assert_close(imported(content, **GIVEN)[0], weights, rtol=0, atol=0)


def zipped(**files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("_", "."), data)
    return content.getvalue()


def tarred():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return content.getvalue()


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def flipped(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


WHOLE = saved({"model": {"a": torch.arange(1000.0)}})
NO_CHECKPOINT = {
    "page": (b"\n<!DOCTYPE html><html><body>404", "a web page: the address gave an error"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "run `git lfs pull`"),
    "empty": (b"", "an empty file"),
    "zeros": (bytes(4096), "zeros: the copy or download did not end"),
    "json": (b'{"error": "not found"}', "a text that begins with"),
    "tar": (tarred(), r"an archive \(tar\): unpack it"),
    "gzip": (b"\x1f\x8b\x08\x00rest", r"an archive \(gzip\)"),
    "zip": (zipped(readme_txt="hello"), r"an archive \(zip\)"),
    "npz": (zipped(a_npy="hello"), "arrays of numpy"),
    "script": (zipped(constants_pkl="", data_pkl=""), "a program of TorchScript"),
    "image": (b"\xff\xd8\xff\xe0rest", r"an image \(JPEG\)"),
    "cut": (WHOLE[: len(WHOLE) // 2], "a zip, as torch writes, but cut short or damaged"),
    "flipped": (flipped(WHOLE), "damaged: the checksum of .* is wrong"),
    "pickle": (
        b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.",
        "a pickle that torch.save did not write",
    ),
    "onnx": (b"\x08\x07\x12\x07pytorch", "a file of another form"),
    "other": (b"\x08\x07\xfe\xff\x12rest", "a file of another form"),
    "list": (saved([1]), "holds no state dict, but a list"),
    "protocol": (saved([1], pickle_protocol=4), "a pickle protocol that torch.save does not choose itself"),
}


@pytest.mark.parametrize(("content", "reason"), NO_CHECKPOINT.values(), ids=NO_CHECKPOINT)
def test_a_file_that_is_no_checkpoint_gets_a_true_reason(content, reason, tmp_path):
    for name in ("weights.pth", "weights.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: .*{reason}"):
            read(tmp_path / name)
    with pytest.raises(ValueError, match=r"weights\.safetensors: "):
        load_encoder(tmp_path / "weights.safetensors")


def test_a_folder_without_weights_and_a_torch_file_for_an_encoder_file_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"a folder without model\.safetensors"):
        read(tmp_path)
    torch.save({}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a file of torch: `mae import .*a\.pth"):
        load_encoder(tmp_path / "a.pth")


def test_weights_that_are_not_finite_go_neither_in_nor_out(weights, imported, tmp_path):
    wrong = weights | {"blocks.1.attn.qkv.weight": weights["blocks.1.attn.qkv.weight"].clone()}
    wrong["blocks.1.attn.qkv.weight"][3, 4] = torch.nan
    reason = r"weights are not finite \(NaN or infinite\): blocks\.1\.attn\.qkv\.weight;"
    with pytest.raises(ValueError, match=rf"weights\.pth: {reason}"):
        imported({"model": wrong}, **GIVEN)
    assert not (tmp_path / "out.safetensors").exists()
    with pytest.raises(ValueError, match=reason):
        save_encoder(tmp_path / "encoder.safetensors", wrong, CONFIG)
    save_weights(tmp_path / "encoder.safetensors", wrong, CONFIG)
    with pytest.raises(ValueError, match=rf"encoder\.safetensors: {reason}"):
        export(tmp_path / "encoder.safetensors", tmp_path / "out.pth", "timm")
    assert not (tmp_path / "out.pth").exists()


def test_quantised_weights_and_register_tokens_are_refused_with_the_reason(weights, imported):
    with pytest.raises(ValueError, match=r"weights\.pth: .* holds whole numbers \(torch\.int8\)"):
        imported({name: (value * 100).to(torch.int8) for name, value in weights.items()}, **GIVEN)
    with pytest.raises(ValueError, match=r"has register tokens \(reg_token\)"):
        imported(weights | {"reg_token": torch.zeros(1, 4, 8)}, **GIVEN)


def test_files_of_ours_need_no_argument(weights, imported, tmp_path):
    ours = {
        "encoder": (weights, CONFIG),
        "method": (
            under("encoder.", weights) | under("teacher.encoder.", weights, 1.0),
            {"task": "pretrain", "encoder": CONFIG},
        ),
        "classifier": (
            {
                name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: v
                for name, v in weights.items()
            }
            | {"head.weight": torch.zeros(2, 32), "head.bias": torch.zeros(2)},
            CONFIG | {"classes": ["a", "b"], "pool": "avg"},
        ),
    }
    for name, (state, config) in ours.items():
        save_weights(tmp_path / f"{name}.safetensors", state, config)
        if name != "encoder":
            with pytest.raises(
                ValueError, match=r"no.* encoder file .* one of the task \w+; `mae import` makes"
            ):
                load_encoder(tmp_path / f"{name}.safetensors")
        found = imported((tmp_path / f"{name}.safetensors").read_bytes(), "file")
        assert found[1] == CONFIG, name
        assert_close(found[0], weights, rtol=0, atol=0)
    checkpoint = {"method": under("encoder.", weights), "ema": None, "step": 3, "encoder_config": CONFIG}
    assert imported(checkpoint, "step-000000003.pt")[1] == CONFIG
    (tmp_path / "models").mkdir()
    save_encoder(tmp_path / "models/encoder.safetensors", weights, CONFIG)
    assert import_(tmp_path / "models", tmp_path / "out.safetensors") == CONFIG


def test_folders_of_hugging_face_and_timms_hub_say_heads_and_colours(tmp_path):
    square = CONFIG | {"img_size": 8}
    state = build(**{key: value for key, value in square.items() if key not in ("mean", "std")}).state_dict()
    save_encoder(tmp_path / "encoder.safetensors", state, square)
    export(tmp_path / "encoder.safetensors", tmp_path / "hf", "hf")
    found = import_(tmp_path / "hf", tmp_path / "out.safetensors")
    assert found | {"name": square["name"]} == square
    tiny = build("vit_tiny_patch16_224", img_size=16, depth=1).state_dict()
    (tmp_path / "hub").mkdir()
    save_file(tiny, tmp_path / "hub/model.safetensors")
    about = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (tmp_path / "hub/config.json").write_text(json.dumps(about))
    found = import_(tmp_path / "hub", tmp_path / "out.safetensors")
    assert (found["num_heads"], found["mean"], found["std"]) == (3, [0.5] * 3, [0.5] * 3)


def test_colours_of_pixels_are_refused_and_those_of_imagenet_are_said(weights, imported, caplog):
    assert imported(weights, **GIVEN)[1]["mean"] == [0.485, 0.456, 0.406]
    assert "does not tell its images' colours: ImageNet's" in caplog.text
    with pytest.raises(
        ValueError, match=r"mean \[123\.7, 116\.3, 103\.5\]: .* divide those of pixels by 255"
    ):
        imported(weights, mean=[123.7, 116.3, 103.5], **GIVEN)
    with pytest.raises(ValueError, match=r"std \[0\.2\]: it needs 3 numbers"):
        imported(weights, std=[0.2], **GIVEN)


@pytest.mark.parametrize(
    ("format", "name", "reason"),
    [
        ("official", "a.safetensors", r"the format official is a file that ends in \.pth or"),
        ("official", "a.onnx", "the format official"),
        ("timm", "a.npz", r"the format timm is a file that ends in \.safetensors or \.pth"),
        ("timm", "a", "the format timm"),
        ("timm", "a.tar", "the format timm"),
        ("hf", "a.safetensors", "the format hf is a folder"),
        ("hf", "a.pth", "the format hf is a folder"),
    ],
)
def test_an_export_whose_ending_names_another_form_is_refused(format, name, reason, weights, tmp_path):
    save_encoder(tmp_path / "encoder.safetensors", weights, CONFIG)
    with pytest.raises(ValueError, match=rf"{name}: {reason}"):
        export(tmp_path / "encoder.safetensors", tmp_path / name, format)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.safetensors"]


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.pth.tar", "a.PT", "a.bin"])
def test_an_export_writes_the_form_that_its_ending_names(name, weights, tmp_path):
    save_encoder(tmp_path / "encoder.safetensors", weights, CONFIG)
    export(tmp_path / "encoder.safetensors", tmp_path / name, "timm")
    assert zipfile.is_zipfile(tmp_path / name) == (name != "a.safetensors")
    import_(tmp_path / name, tmp_path / "out.safetensors", **GIVEN)


def test_an_import_writes_no_encoder_file_under_a_torch_name(weights, tmp_path):
    torch.save(weights, tmp_path / "a.pth")
    for name in ("b.pth", "b"):
        with pytest.raises(ValueError, match=rf"{name}: an encoder file of ours .* ends in \.safetensors"):
            import_(tmp_path / "a.pth", tmp_path / name, **GIVEN)
