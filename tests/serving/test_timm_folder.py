"""The four ways to an encoder's embedding agree: exported to timm, loaded in Python, served, `mae embed`."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from embedding_inputs import CONFIG, write_encoder, write_images
from PIL import Image
from served import served

import mae
from mae.__main__ import main
from mae.interchange import import_, load_encoder
from mae.models.vit import build
from mae.serving.timm_folder import export_timm_folder

LOADED = re.compile(r"load it with\n\n(.*)", re.DOTALL)


def by_the_printed_lines(lines: str, image: Image.Image) -> torch.Tensor:
    """Run the lines that the command printed, as a user pastes them."""
    names: dict[str, Any] = {"image": image}
    with torch.inference_mode():
        exec(lines, names)
    return names["embedding"]


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize(
    ("more", "alike"),
    # For a side that is not square timm rounds the scaled size, which we cut off: a pixel at most.
    [
        ({}, 0.9999),
        ({"img_size": 256, "patch_size": 64}, 0.9999),
        ({"img_size": [32, 48], "init_values": 1e-5}, 0.999),
    ],
    ids=["square", "large, not cropped", "wide, LayerScale"],
)
def test_timm_python_serving_and_embed_give_the_same_embedding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pool: str, more: dict[str, Any], alike: float
) -> None:
    encoder = write_encoder(tmp_path / "encoder.safetensors", CONFIG | more)
    paths = write_images(tmp_path / "images")
    assert main(["export", str(encoder), str(tmp_path / "timm"), "--pool", pool]) == 0
    said = LOADED.search(capsys.readouterr().out)
    assert said is not None
    by_timm = torch.cat([by_the_printed_lines(said[1], Image.open(path).convert("RGB")) for path in paths])
    answered = served(encoder, [path.read_bytes() for path in paths], pool)
    model, transform = mae.load(encoder, pool=pool)
    with torch.inference_mode():
        in_python = model(torch.stack([transform(path) for path in paths]))
    out = tmp_path / "out.npz"
    assert main(["embed", str(encoder), str(tmp_path / "images"), str(out), "--pool", pool]) == 0
    with np.load(out) as file:
        assert [tmp_path / "images" / name for name in file["names"]] == paths
        embedded = torch.from_numpy(file["features"])
    torch.testing.assert_close(in_python, answered, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedded, answered, rtol=1e-4, atol=1e-5)
    # timm scales by PIL, which rounds some pixels the other way.
    assert torch.cosine_similarity(by_timm, answered).min() > alike


@pytest.mark.parametrize("size", [32, 256])
def test_the_transform_of_timm_differs_by_two_levels_of_255_at_most(tmp_path: Path, size: int) -> None:
    encoder = write_encoder(tmp_path / "encoder.safetensors", CONFIG | {"img_size": size})
    export_timm_folder(encoder, tmp_path / "timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True)
    by_timm = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    _, transform = mae.load(encoder)
    for path in write_images(tmp_path / "images"):
        with Image.open(path) as image:
            difference = (by_timm(image.convert("RGB")) - transform(path)).abs().amax((1, 2))
        assert (difference * torch.tensor(CONFIG["std"]) * 255).max() < 2.001


def test_the_weights_alone_differ_in_nothing(tmp_path: Path) -> None:
    encoder = write_encoder(tmp_path / "encoder.safetensors")
    export_timm_folder(encoder, tmp_path / "timm")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    model, _ = mae.load(encoder)
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), model(images), rtol=0, atol=0)
    assert (
        timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, num_classes=7).num_classes == 7
    )


def test_a_folder_of_timm_is_imported_without_further_arguments(tmp_path: Path) -> None:
    config = CONFIG | {"img_size": [32, 48]}
    encoder = write_encoder(tmp_path / "encoder.safetensors", config)
    export_timm_folder(encoder, tmp_path / "timm")
    assert import_(tmp_path / "timm", tmp_path / "back.safetensors") == config | {"in_chans": 3}
    for name, value in load_encoder(tmp_path / "back.safetensors")[0].items():
        torch.testing.assert_close(value, load_encoder(encoder)[0][name], rtol=0, atol=0)


def test_the_folder_describes_each_plain_vit_of_timm_as_ours_is_built() -> None:
    small: dict[str, Any] = {"img_size": 32, "patch_size": 16, "depth": 1, "embed_dim": 32, "num_heads": 2}
    compared = 0
    for name in timm.list_models("vit_*", module="vision_transformer"):
        with torch.device("meta"):
            try:
                ours = build(name, **small)
            except ValueError:
                continue
            theirs = timm.create_model(name, num_classes=0, global_pool="avg", fc_norm=False, **small)
        assert str(ours) == str(theirs)
        compared += 1
    assert compared > 20


def test_a_pool_that_the_target_cannot_hold_and_a_file_in_the_way_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = write_encoder(tmp_path / "encoder.safetensors")
    (tmp_path / "taken").touch()
    assert main(["export", str(encoder), str(tmp_path / "taken")]) == 1
    assert "taken: a file of this name is in the way" in capsys.readouterr().err
    assert main(["export", str(encoder), str(tmp_path / "a.pth"), "--pool", "token"]) == 1
    assert "--pool: only a folder of timm holds it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "name"), [("timm", "a.pth"), ("timm", "a.safetensors"), ("official", "a.pth"), ("hf", "a")]
)
def test_the_printed_lines_load_each_other_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, name: str
) -> None:
    encoder = write_encoder(tmp_path / "encoder.safetensors")
    assert main(["export", str(encoder), str(tmp_path / name), "--format", form]) == 0
    said = LOADED.search(capsys.readouterr().out)
    assert said is not None
    names: dict[str, Any] = {"images": torch.randn(2, 3, 32, 32)}
    with torch.inference_mode():
        exec(said[1], names)
        expected = mae.load(encoder)[0](names["images"])
    if form == "timm":
        torch.testing.assert_close(names["embedding"], expected)
    elif form == "hf":
        torch.testing.assert_close(names["tokens"][:, 1:].mean(dim=1), expected, rtol=1e-3, atol=1e-4)
    else:
        assert json.dumps(sorted(names["weights"])) == json.dumps(sorted(load_encoder(encoder)[0]))
