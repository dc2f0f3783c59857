"""An encoder in Python gives the embedding that is served, from whatever form of image."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from embedding_inputs import CONFIG, write_encoder, write_images
from PIL import Image
from served import served

import mae
from mae import registry
from mae.__main__ import main


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_the_loaded_model_and_transform_give_the_served_embedding(tmp_path: Path, pool: str) -> None:
    file, images = write_encoder(tmp_path / "encoder.safetensors"), write_images(tmp_path / "images")
    model, transform = mae.load(file, pool=pool)
    with torch.inference_mode():
        got = model(torch.stack([transform(path) for path in images]))
    expected = served(file, [path.read_bytes() for path in images], pool)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert not model.training


def test_the_transform_takes_each_form_of_an_image_and_refuses_others(tmp_path: Path) -> None:
    _, transform = mae.load(write_encoder(tmp_path / "encoder.safetensors"))
    for path in write_images(tmp_path / "images"):
        expected = transform(path)
        assert expected.shape == (3, 32, 32)
        torch.testing.assert_close(transform(str(path)), expected)
        torch.testing.assert_close(transform(path.read_bytes()), expected)
        with Image.open(path) as image:
            torch.testing.assert_close(transform(image), expected)
    with pytest.raises(ValueError, match=r"float32 \(3, 8, 8\): the transform takes decoded pixels, uint8"):
        transform(torch.zeros(3, 8, 8))
    with pytest.raises(TypeError, match="not list"):
        transform([1])


def test_a_registered_encoder_is_loaded_by_its_alias_with_its_own_pool(
    tmp_path: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    file, (image, *_) = write_encoder(tmp_path / "encoder.safetensors"), write_images(tmp_path / "images")
    registry.register(
        uri=mlflow_uri,
        experiment="mae",
        models={"encoder": ("mae-encoder", file)},
        example=image.read_bytes,
        tags={"encoder": {}},
        pool="token",
    )
    model, transform = mae.load("models:/mae-encoder@challenger")
    by_number, _ = mae.load("models:/mae-encoder/1", pool="avg")
    inputs = transform(image)[None]
    with torch.inference_mode():
        torch.testing.assert_close(model(inputs), served(file, [image.read_bytes()], "token"))
        torch.testing.assert_close(by_number(inputs), served(file, [image.read_bytes()]))
    out = tmp_path / "out.npz"
    assert main(["embed", "models:/mae-encoder@challenger", str(image.parent), str(out)]) == 0
    with np.load(out) as embedded, torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(embedded["features"][:1]), model(inputs))
    with pytest.raises(registry.RegistryError, match=r"has the alias 'champion'; its aliases: challenger"):
        mae.load("models:/mae-encoder@champion")
    with pytest.raises(ValueError, match=r"models:/mae-encoder: expected models:/NAME@ALIAS"):
        mae.load("models:/mae-encoder")


def test_a_file_that_is_no_encoder_of_ours_is_named_with_a_remedy(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: .*`mae import"):
        mae.load(tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"pool .*mean.*avg"):
        mae.load(write_encoder(tmp_path / "encoder.safetensors", CONFIG), pool="mean")


def test_importing_mae_imports_nothing_heavy() -> None:
    text = "import sys, mae; print(*{'torch', 'numpy', 'mlflow', 'timm', 'argparse'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
