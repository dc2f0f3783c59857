"""A registered detector and segmenter answer requests like the training code on the same image."""

import base64
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from dense_models import CATEGORIES, COLOURS, NAMES, PHOTOGRAPH
from mlflow_server import post

from mae import registry
from mae.registry import Registered
from mae.serving.model_file import load_model
from mae.serving.packaging import requirements


def image_of(width: int, height: int) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Store(NamedTuple):
    uri: str
    files: dict[str, Path]
    done: dict[str, Registered]


@pytest.fixture(scope="module")
def store(module_mlflow_uri: str, models: dict[str, Path]) -> Store:
    done = {}
    for kind, file in models.items():
        done |= registry.register(
            uri=module_mlflow_uri,
            experiment="mae",
            models={kind: (NAMES[kind], file)},
            example=lambda: PHOTOGRAPH,
            tags={kind: {"git.commit": "c" * 40}},
        )
    return Store(module_mlflow_uri, models, done)


def client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri, registry_uri=uri)


def folder_of(store: Store, kind: str) -> str:
    return client(store.uri).get_logged_model(store.done[kind].model_id).artifact_location


def answers(store: Store, kind: str, images: list[bytes]) -> list[dict[str, Any]]:
    """As anybody would load the model and ask it."""
    import mlflow
    import pandas

    model = mlflow.pyfunc.load_model(folder_of(store, kind))
    return model.predict(pandas.DataFrame({"image": images})).to_dict("records")


def prepared(image: bytes, transform: Callable[..., Any]) -> tuple[torch.Tensor, Any]:
    from mae.data.decode import decode
    from mae.data.transforms.image import Normalize

    scaled, about = transform(decode(image), None)
    return Normalize(**COLOURS)(scaled[None]), about


def detections(file: Path, image: bytes) -> dict[str, Any]:
    """Answer with the training code, without MLflow."""
    from mae.data.transforms.detection import detection_evaluation

    images, about = prepared(image, detection_evaluation(64))
    with torch.inference_mode():
        return load_model(file)[0].eval().detect(images, [about])[0]


def label_map(file: Path, image: bytes) -> torch.Tensor:
    from mae.data.transforms.segmentation import segmentation_evaluation

    images, about = prepared(image, segmentation_evaluation(48))
    return load_model(file)[0].eval().segment(images, about["size"])


def pixels_of(row: dict[str, Any]) -> torch.Tensor:
    from PIL import Image

    with Image.open(BytesIO(base64.b64decode(row["label_map"]))) as image:
        assert (image.mode, image.size) == ("L", (row["width"], row["height"]))
        return torch.from_numpy(np.array(image)).long()


def check_detections(row: dict[str, Any], found: dict[str, Any]) -> None:
    assert len(row["scores"]) > 0
    torch.testing.assert_close(torch.tensor(row["boxes"]), found["boxes"])
    torch.testing.assert_close(torch.tensor(row["scores"]), found["scores"])
    assert list(row["labels"]) == [CATEGORIES[index]["name"] for index in found["labels"].tolist()]
    assert [json.loads(mask) for mask in row["masks"]] == found["masks"]


def test_a_version_says_what_it_answers_and_how_it_was_built(store: Store) -> None:
    from mlflow.models import Model

    from mae.serving.answers import ANSWERS

    for kind, model in store.done.items():
        card = Model.load(folder_of(store, kind).removeprefix("file://"))
        assert tuple(card.signature.outputs.input_names()) == ANSWERS[kind].columns
        assert client(store.uri).get_model_version(model.name, model.version).tags["kind"] == kind
        params = client(store.uri).get_logged_model(model.model_id).params
        assert (params["categories"], params["build.encoder.embed_dim"]) == ("3", "32")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in pycocotools
def test_the_detector_served_gives_the_objects_of_the_training_code(store: Store) -> None:
    from pycocotools.mask import decode

    (row,) = answers(store, "detector", [PHOTOGRAPH])
    check_detections(row, detections(store.files["detector"], PHOTOGRAPH))
    for mask in row["masks"]:
        assert decode(json.loads(mask)).shape == (427, 640)


def test_the_segmenter_served_gives_the_label_map_of_the_training_code(store: Store) -> None:
    (row,) = answers(store, "segmenter", [PHOTOGRAPH])
    assert (row["width"], row["height"]) == (640, 427)
    assert row["classes"] == ["pagoda", "tree", "sky"]
    torch.testing.assert_close(pixels_of(row), label_map(store.files["segmenter"], PHOTOGRAPH))


def test_images_of_odd_sizes_are_answered_in_their_own_pixels(store: Store) -> None:
    sizes = [(1, 90), (300, 1), (1, 1), (31, 77)]
    images = [image_of(*size) for size in sizes]
    for row, (width, height) in zip(answers(store, "segmenter", images), sizes, strict=True):
        assert tuple(pixels_of(row).shape) == (height, width)
    for row, (width, height) in zip(answers(store, "detector", images), sizes, strict=True):
        boxes = np.array(row["boxes"]).reshape(-1, 4)
        assert (boxes >= 0).all()
        assert (boxes <= [width, height, width, height]).all()
        assert all(json.loads(mask)["size"] == [height, width] for mask in row["masks"])


def test_an_image_that_cannot_be_decoded_is_named_by_row(store: Store) -> None:
    from mlflow.exceptions import MlflowException

    for kind in NAMES:
        with pytest.raises(MlflowException, match=r"1 of 2 image.*row 1: "):
            answers(store, kind, [PHOTOGRAPH, PHOTOGRAPH[:900]])


ASK = """
import json, sys
weights, image = sys.argv[1:3]
sys.modules.update(dict.fromkeys(json.loads(sys.argv[3])))  # as if they were not installed
import pandas
from mlflow.pyfunc import PythonModelContext
from mae.serving.served_model import ServedModel
model, context = ServedModel(), PythonModelContext({"weights": weights}, {})
model.load_context(context)
print(len(model.predict(context, pandas.DataFrame({"image": [open(image, "rb").read()]}))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(NAMES))
def test_nothing_but_the_pinned_packages_is_needed_to_serve(
    kind: str, models: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "image.jpg").write_bytes(PHOTOGRAPH)
    there = brought_by([pin.partition("==")[0] for pin in requirements(kind)])
    absent = [
        module
        for module, homes in packages_distributions().items()
        if module != "mae" and not there & {canonical(home) for home in homes}
    ]
    assert {"psutil", "pydantic_core"} - set(absent) == {"pydantic_core"}
    command = [sys.executable, "-c", ASK, str(models[kind]), str(tmp_path / "image.jpg"), json.dumps(absent)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == "1", ran.stderr[-2000:]


def canonical(distribution: str) -> str:
    return distribution.lower().replace("_", "-")


def brought_by(distributions: list[str]) -> set[str]:
    """Names of the distributions that installing these installs."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    wanted = [Requirement(name) for name in distributions]
    while wanted:
        need = wanted.pop()
        name = canonical(need.name) + "".join(f"[{extra}]" for extra in sorted(need.extras))
        if name in found:
            continue
        found.add(name)
        with contextlib.suppress(PackageNotFoundError):  # a dependency of another system's
            inner = [Requirement(text) for text in requires(need.name) or []]
            extras = ("", *need.extras)
            wanted += [
                each
                for each in inner
                if not each.marker or any(each.marker.evaluate({"extra": extra}) for extra in extras)
            ]
    return {name.partition("[")[0] for name in found}


@pytest.mark.slow
def test_mlflow_models_serve_finds_objects_in_a_photograph(store: Store, served: Callable[..., str]) -> None:
    address = served(store.uri, f"models:/{NAMES['detector']}@challenger")
    (row,) = post(address, [PHOTOGRAPH])
    check_detections(row, detections(store.files["detector"], PHOTOGRAPH))


@pytest.mark.slow
def test_mlflow_models_serve_labels_every_pixel_of_a_photograph(
    store: Store, served: Callable[..., str]
) -> None:
    address = served(store.uri, f"models:/{NAMES['segmenter']}@challenger")
    (row,) = post(address, [PHOTOGRAPH])
    torch.testing.assert_close(pixels_of(row), label_map(store.files["segmenter"], PHOTOGRAPH))
