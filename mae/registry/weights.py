"""An encoder or classifier file as the model that it is; without MLflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def config_of(file: Path) -> dict[str, Any]:
    """The config in a safetensors file's metadata, read without the weights; ValueError naming the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            return json.loads((opened.metadata() or {})["config"])
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: no encoder or classifier file of ours ({error!r})") from error


def load_model(file: Path) -> tuple[Any, dict[str, Any]]:
    """(timm ViT, config) of an encoder or classifier file; ValueError naming the file where it does not fit.

    The file is safetensors under timm's key names with the JSON `config` in its metadata: the encoder's keys
    (`name`, `img_size`, overrides, `mean`, `std`) and, for a classifier, `classes` (list of str), and
    optionally `pool` ("avg" as in fine-tuning, or "token") and `crop_pct`.
    """
    from safetensors.torch import load_file

    from mae.interchange import check, encoder_arguments
    from mae.models.encoder import build

    config = config_of(file)
    head = {}
    if "classes" in config:
        head = {"num_classes": len(config["classes"]), "pool": config.get("pool", "avg")}
    model = build(**encoder_arguments(config), **head)
    state = load_file(file)
    check(state, {name: value.shape for name, value in model.state_dict().items()}, str(file))
    model.load_state_dict(state)
    return model, config
