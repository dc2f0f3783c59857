"""A model's file as the model that it is; without MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae.serving.dense_file import SIZE_KEYS

KINDS = {"encode": "encoder", "classify": "classifier", "detect": "detector", "segment": "segmenter"}
DENSE_KEYS = ("build", "categories", "mean", "std")


def config_of(file: Path) -> dict[str, Any]:
    """The config in a safetensors file's metadata, read without the weights; ValueError naming the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            return json.loads((opened.metadata() or {})["config"])
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: no model file of ours ({error!r})") from error


def kind_of(config: Mapping[str, Any], file: Path) -> str:
    """encoder, classifier, detector or segmenter; ValueError naming the file and what its config lacks."""
    task = config.get("task") or ("classify" if "classes" in config else "encode")
    if task not in KINDS:
        raise ValueError(f"{file}: its config is of the task {task!r}; known are {', '.join(KINDS)}")
    if task in SIZE_KEYS:
        missing = [key for key in (*DENSE_KEYS, SIZE_KEYS[task]) if key not in config]
        if missing:
            raise ValueError(f"{file}: the config of a {KINDS[task]} needs {', '.join(missing)} too")
    return KINDS[task]


def load_model(file: Path) -> tuple[Any, dict[str, Any]]:
    """(model, config) of a model file; ValueError naming the file where it does not fit.

    The file is safetensors with the JSON `config` in its metadata. A timm ViT under timm's key names: the
    encoder's keys (`name`, `img_size`, overrides, `mean`, `std`) and, for a classifier, `classes` (list of
    str), and optionally `pool` ("avg" as in fine-tuning, or "token") and `crop_pct`. A Detector or Segmenter:
    what `dense_file.save_dense` wrote.
    """
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
        from mae.evaluation.detection.detector import build_detector

        build = build_detector
    else:
        from mae.evaluation.segmentation.segmenter import build_segmenter

        build = build_segmenter
        # Of files from before it was a setting, half the head's width.
        settings = {"auxiliary_channels": max(1, settings.get("channels", 0) // 2), **settings}
    try:
        return build(**settings)
    except (TypeError, ValueError) as error:  # settings of another version of this package
        raise ValueError(f"{file}: no {kind} can be built from its config ({error})") from error
