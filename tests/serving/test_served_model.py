"""Registered models answer requests: the same numbers as the encoder, from real image bytes."""

import json
import shutil
import urllib.error
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mlflow_server import post

from mae import registry
from mae.registry import Registered
from mae.registry.client import aliases

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
CONFIG = {"name": "vit_tiny_patch16_224", **SIZES, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3]}
CLASSES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]
NAMES = {"encoder": "mae-encoder", "classifier": "mae-classifier"}


class Files(NamedTuple):
    encoder: Path
    classifier: Path | None


def jpeg(seed: int) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_models(folder: Path, seed: int) -> Files:
    from safetensors.torch import save_file

    from mae.interchange import save_encoder
    from mae.models.vit import build

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    encoder = build(CONFIG["name"], **SIZES)
    save_encoder(folder / "encoder.safetensors", encoder.state_dict(), CONFIG)
    classifier = build(CONFIG["name"], **SIZES, pool="avg", num_classes=len(CLASSES))
    config = {"config": json.dumps(CONFIG | {"classes": CLASSES, "crop_pct": 1.0})}
    save_file(classifier.state_dict(), folder / "classifier.safetensors", config)
    return Files(folder / "encoder.safetensors", folder / "classifier.safetensors")


def register(uri: str, files: Files, **more: Any) -> dict[str, Registered]:
    found = files._asdict().items()
    return registry.register(
        uri=uri,
        experiment="mae",
        models={kind: (NAMES[kind], file) for kind, file in found if file is not None},
        example=lambda: jpeg(0),
        tags={key: {"git.commit": "c" * 40, "data_digest": "d", "params_digest": "p"} for key in NAMES},
        **more,
    )


def client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri, registry_uri=uri)


def load(uri: str, model: Registered) -> Any:
    """The model as anybody would load it."""
    import mlflow

    there = client(uri).get_logged_model(model.model_id).artifact_location
    return mlflow.pyfunc.load_model(there)


class Store(NamedTuple):
    uri: str
    files: Files
    done: dict[str, Registered]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_models(tmp_path_factory.mktemp("models"), seed=0)


@pytest.fixture(scope="module")
def store(module_mlflow_uri: str, files: Files) -> Store:
    return Store(module_mlflow_uri, files, register(module_mlflow_uri, files))


def expected(file: Path, images: list[bytes]) -> torch.Tensor:
    """Embeddings or probabilities by the training code, without MLflow."""
    from mae.data.decode import decode
    from mae.data.transforms.image import Normalize, evaluation
    from mae.models.vit import encode
    from mae.serving.model_file import load_model

    model, config = load_model(file)
    crop = evaluation(32, crop_pct=config.get("crop_pct"))
    batch = Normalize(config["mean"], config["std"])(torch.stack([crop(decode(i)) for i in images]))
    with torch.inference_mode():
        if "classes" in config:
            return model.eval()(batch).softmax(dim=1)
        return encode(model.eval(), batch)[:, 1:].mean(dim=1)


def test_a_version_carries_lineage_signature_example_and_pins(store: Store) -> None:
    from mlflow.models import Model

    for kind, model in store.done.items():
        version = client(store.uri).get_model_version(model.name, model.version)
        assert version.tags["git.commit"] == "c" * 40
        assert version.tags["artifact_digest"] == model.digest
        assert version.tags["kind"] == kind
        assert aliases(client(store.uri), model.name) == {"challenger": "1"}
        folder = Path(client(store.uri).get_logged_model(model.model_id).artifact_location[7:])
        card = Model.load(str(folder))
        assert [str(column.type) for column in card.signature.inputs] == ["DataType.binary"]
        assert (folder / "serving_input_example.json").is_file()
        pins = (folder / "requirements.txt").read_text().split()
        assert {pin.split("==")[0] for pin in pins} >= {"torch", "timm", "mlflow", "simplejpeg"}
        assert all("==" in pin and "+" not in pin for pin in pins)
        assert (folder / "code" / "mae" / "models" / "vit.py").is_file()
    partner = client(store.uri).get_model_version(NAMES["encoder"], "1").tags["classifier_version"]
    assert partner == store.done["classifier"].version


def test_the_encoder_served_gives_the_embedding_of_the_training_code(store: Store) -> None:
    import pandas

    images = [jpeg(seed) for seed in range(3)]
    answer = load(store.uri, store.done["encoder"]).predict(pandas.DataFrame({"image": images}))
    got = torch.tensor(answer["embedding"].tolist())
    torch.testing.assert_close(got, expected(store.files.encoder, images))


def test_the_classifier_served_gives_the_scores_of_the_training_code(store: Store) -> None:
    import pandas

    images = [jpeg(seed) for seed in range(3)]
    answer = load(store.uri, store.done["classifier"]).predict(pandas.DataFrame({"image": images}))
    scores, best = expected(store.files.classifier, images).topk(5)
    torch.testing.assert_close(torch.tensor(answer["scores"].tolist()), scores)
    assert answer["label"].tolist() == [CLASSES[index] for index in best[:, 0]]
    assert answer["labels"].tolist() == [[CLASSES[index] for index in row] for row in best]
    torch.testing.assert_close(torch.tensor(answer["score"].tolist()), scores[:, 0])


def test_images_that_cannot_be_decoded_are_named_by_row(store: Store) -> None:
    import pandas
    from mlflow.exceptions import MlflowException

    rows = [jpeg(1), b"", jpeg(2)[:200], jpeg(3)]
    with pytest.raises(MlflowException, match=r"2 of 4 image.*row 1: .*row 2: ") as caught:
        load(store.uri, store.done["encoder"]).predict(pandas.DataFrame({"image": rows}))
    assert caught.value.get_http_status_code() == 400


def test_unchanged_models_are_not_registered_again(store: Store, files: Files) -> None:
    again = register(store.uri, files)
    assert {kind: (model.version, model.created) for kind, model in again.items()} == {
        "encoder": ("1", False),
        "classifier": ("1", False),
    }
    assert len(client(store.uri).search_model_versions(f"name = '{NAMES['encoder']}'")) == 1
    assert len(client(store.uri).search_logged_models(["1"])) == 2


def test_a_changed_model_is_a_new_challenger_and_the_champion_stays(
    store: Store, files: Files, tmp_path: Path, migrated_store: Path
) -> None:
    shutil.copyfile(store.uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    first = registry.decide([True], None, min_gain=0.0, confidence=0.95, seed=0)
    registry.conclude(uri, store.done, first, dict.fromkeys(NAMES.values()))
    assert register(uri, files)["classifier"].decided
    changed = write_models(tmp_path / "other", seed=1)
    done = register(uri, Files(files.encoder, changed.classifier))
    assert (done["encoder"].version, done["classifier"].version) == ("1", "2")
    assert (done["encoder"].created, done["classifier"].created) == (False, True)
    assert aliases(client(uri), NAMES["classifier"]) == {"champion": "1", "challenger": "2"}
    file = registry.champion_files(uri, NAMES["classifier"], tmp_path)
    assert file is not None
    assert file.read_bytes() == files.classifier.read_bytes()


def test_an_empty_registry_has_no_champion_and_a_model_that_is_gone_is_logged_again(
    mlflow_uri: str, files: Files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert registry.champion_files(mlflow_uri, NAMES["encoder"], tmp_path) is None
    monkeypatch.setattr("mae.registry.model_versions.save", lambda target, *_: target.mkdir())
    first = register(mlflow_uri, files)
    client(mlflow_uri).delete_logged_model(first["encoder"].model_id)
    second = register(mlflow_uri, files, run_id="offline-0")
    assert (second["encoder"].version, second["encoder"].created) == ("2", True)
    assert (second["classifier"].version, second["classifier"].created) == ("1", False)


def test_a_model_whose_logging_failed_is_not_used_again(
    mlflow_uri: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("mae.registry.model_versions.save", full_disk)
    with pytest.raises(OSError, match="no space left"):
        register(mlflow_uri, files)
    assert client(mlflow_uri).search_model_versions() == []
    monkeypatch.setattr("mae.registry.model_versions.save", lambda target, *_: target.mkdir())
    alone = register(mlflow_uri, files._replace(classifier=None))
    assert set(alone) == {"encoder"}
    assert alone["encoder"].created


def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path, files: Files) -> None:
    from mae.serving.model_file import load_model

    broken = tmp_path / "encoder.safetensors"
    broken.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"encoder\.safetensors"):
        load_model(broken)
    with pytest.raises(ValueError, match=r"missing\.safetensors"):
        register("sqlite:///never.db", Files(tmp_path / "missing.safetensors", files.classifier))


@pytest.mark.slow
def test_mlflow_models_serve_answers_a_real_request(store: Store, served: Callable[..., str]) -> None:
    images = [jpeg(5), jpeg(6)]
    address = served(store.uri, f"models:/{NAMES['classifier']}@challenger")
    scores, best = expected(store.files.classifier, images).topk(5)
    answer = post(address, images)
    assert [row["label"] for row in answer] == [CLASSES[index] for index in best[:, 0]]
    torch.testing.assert_close(torch.tensor([row["scores"] for row in answer]), scores)
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(address, [images[0], b"no image"])
    assert caught.value.code == 400
    assert "row 1" in json.loads(caught.value.read())["message"]
    caught.value.close()
