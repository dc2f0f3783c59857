"""The files of models, written and read: safetensors with a JSON `config` in the metadata. No MLflow.

An encoder or classifier is a timm ViT under timm's key names. Its config has the arguments of the encoder
(`name`, `img_size`, overrides), `mean` and `std`; that of a classifier also `classes` (names), and may have
`pool` ("avg" as in fine-tuning, or "token") and `crop_pct`. `save_dense` writes detectors and segmenters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KINDS = {"encode": "encoder", "classify": "classifier", "detect": "detector", "segment": "segmenter"}
# The image size of a dense model: both sides of the padded square, or the shorter side.
SIZE_KEYS = {"detect": "image_size", "segment": "short"}
DENSE_KEYS = ("build", "categories", "mean", "std")


def save_dense(
    file: Path,
    model: Any,
    *,
    task: str,
    categories: Sequence[Mapping[str, Any]],
    mean: Sequence[float],
    std: Sequence[float],
    size: int,
) -> None:
    """Write a Detector ("detect") or Segmenter ("segment") for `load_model`, whole or not at all.

    Args:
        model: its `settings` become the config's `build`, its state dict the tensors.
        categories: [{"id", "name"}] in the order of the model's category indices, as in index.json.
        mean, std: of the images' colours, 3 each, of values 0 to 1.
        size: pixels to which evaluation scales images: the longer side ("detect", config key `image_size`)
            or the shorter one ("segment", config key `short`).

    Raises ValueError for another task.
    """
    from mae.interchange import save_weights

    if task not in SIZE_KEYS:
        raise ValueError(f"unknown task {task!r}: choose one of {', '.join(SIZE_KEYS)}")
    config = {
        "task": task,
        "build": model.settings,
        "categories": [{"id": each["id"], "name": each["name"]} for each in categories],
        "mean": list(mean),
        "std": list(std),
        SIZE_KEYS[task]: size,
    }
    save_weights(file, model.state_dict(), config)


def config_of(file: Path) -> dict[str, Any]:
    """Read the config of a model file without its weights; ValueError naming the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            return json.loads((opened.metadata() or {})["config"])
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: not a model file of this project ({error!r})") from error


def kind_of(config: Mapping[str, Any], file: Path) -> str:
    """Name the kind of a model: encoder, classifier, detector or segmenter.

    Raises ValueError naming the file and the keys that its config lacks.
    """
    task = config.get("task") or ("classify" if "classes" in config else "encode")
    if task not in KINDS:
        raise ValueError(f"{file}: unknown task {task!r} in its config; known are {', '.join(KINDS)}")
    if task in SIZE_KEYS:
        missing = [key for key in (*DENSE_KEYS, SIZE_KEYS[task]) if key not in config]
        if missing:
            raise ValueError(f"{file}: the config of a {KINDS[task]} also needs {', '.join(missing)}")
    return KINDS[task]


def load_model(file: Path) -> tuple[Any, dict[str, Any]]:
    """Load (model, config) from a model file; ValueError naming the file where they do not fit."""
    from safetensors.torch import load_file

    from mae.interchange import check

    config = config_of(file)
    kind = kind_of(config, file)
    model = _dense(kind, config, file) if kind in ("detector", "segmenter") else _vit(config)
    state = load_file(file)
    check(state, {name: value.shape for name, value in model.state_dict().items()}, str(file))
    model.load_state_dict(state)
    return model, config


def _vit(config: Mapping[str, Any]) -> Any:
    from mae.interchange import encoder_arguments
    from mae.models.vit import build

    head = {}
    if "classes" in config:
        head = {"num_classes": len(config["classes"]), "pool": config.get("pool", "avg")}
    return build(**encoder_arguments(config), **head)


def _dense(kind: str, config: Mapping[str, Any], file: Path) -> Any:
    build: Any
    settings = config["build"]
    if kind == "detector":
        from mae.models.detection.detector import build_detector

        build = build_detector
    else:
        from mae.models.segmentation.segmenter import build_segmenter

        build = build_segmenter
        # Older files lack the setting: it was half the head's width then.
        settings = {"auxiliary_channels": max(1, settings.get("channels", 0) // 2), **settings}
    try:
        return build(**settings)
    except (TypeError, ValueError) as error:  # settings of another version of this package
        raise ValueError(f"{file}: cannot build the {kind} from its config ({error})") from error
