"""Packages of models for MLflow: the weights, the code that serves them, and the exact versions it needs."""

from __future__ import annotations

import contextlib
import shutil
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent
PINNED = (
    "mlflow", "torch", "torchvision", "timm", "simplejpeg", "pillow", "numpy", "pandas", "safetensors",
)  # fmt: skip
PINNED_TOO = {"detector": ("faster-coco-eval",), "segmenter": ("segmentation-models-pytorch",)}


def requirements(kind: str) -> list[str]:
    """List exact versions of the packages that serve a kind, without local parts (`+cpu`)."""
    pins = []
    for name in (*PINNED, *PINNED_TOO.get(kind, ())):
        with contextlib.suppress(PackageNotFoundError):
            pins.append(f"{name}=={version(name).split('+')[0]}")
    return pins


def save(
    target: Path, kind: str, file: Path, example: bytes, card: Any, model_config: dict[str, Any]
) -> None:
    """Write the served model as an MLflow model folder, and check that it answers for the example."""
    with warnings.catch_warnings():
        # MLflow 3.17 complains, a page long, of its own type hints and of its use of pandas 3.
        warnings.simplefilter("ignore")
        _save(target, kind, file, example, card, model_config)
        served = _answer(file, example, model_config)
    for cache in list(target.rglob("__pycache__")):
        shutil.rmtree(cache, ignore_errors=True)
    if len(served) != 1:
        raise RuntimeError(f"{file}: the saved {kind} did not answer for its input example")


def _save(
    target: Path, kind: str, file: Path, example: bytes, card: Any, model_config: dict[str, Any]
) -> None:
    import mlflow.pyfunc
    import pandas
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    mlflow.pyfunc.save_model(
        path=str(target),
        python_model=str(PACKAGE / "serving/served_model.py"),
        code_paths=[str(PACKAGE)],
        artifacts={"weights": str(file)},
        signature=ModelSignature(Schema([ColSpec("binary", "image")]), Schema(_outputs(kind))),
        input_example=pandas.DataFrame({"image": [example]}),
        pip_requirements=requirements(kind),
        model_config=model_config,
        mlflow_model=card,
    )


def _outputs(kind: str) -> list[Any]:
    """List the columns of a kind's answers, those of `mae/serving/answers.py`."""
    from mlflow.types.schema import Array, ColSpec, DataType

    text, number = DataType.string, DataType.double
    columns: dict[str, dict[str, Any]] = {
        "encoder": {"embedding": Array(number)},
        "classifier": {"label": text, "score": number, "labels": Array(text), "scores": Array(number)},
        "detector": {
            "boxes": Array(Array(number)),
            "labels": Array(text),
            "scores": Array(number),
            "masks": Array(text),
        },
        "segmenter": {
            "label_map": text,
            "classes": Array(text),
            "width": DataType.long,
            "height": DataType.long,
        },
    }
    return [ColSpec(what, name) for name, what in columns[kind].items()]


def _answer(file: Path, example: bytes, model_config: dict[str, Any]) -> Any:
    """Ask the served model about the example.

    It runs this package, not the copy in the model folder: that would stay on sys.path.
    """
    import pandas
    from mlflow.pyfunc import PythonModelContext

    from mae.serving.served_model import ServedModel

    context = PythonModelContext({"weights": str(file)}, model_config)
    model = ServedModel()
    model.load_context(context)
    return model.predict(context, pandas.DataFrame({"image": [example]}))
