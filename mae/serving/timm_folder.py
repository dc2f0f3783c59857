"""An encoder as a folder that timm loads by itself, with the pooling and transform of the served model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mae.data.transforms.image import default_crop_pct
from mae.files import atomic_path, write_text
from mae.interchange import encoder_arguments, load_encoder
from mae.models.patches import pair
from mae.models.vit import POOLS
from mae.suggestions import not_one_of


def export_timm_folder(encoder_file: str | Path, folder: str | Path, pool: str = "avg") -> None:
    """Write config.json and model.safetensors for `timm.create_model("local-dir:FOLDER", pretrained=True)`.

    The call of that model gives the embedding as `pool` says, "avg" or "token", and `timm.data` makes its
    transform from config.json. Raises ValueError naming what is wrong.
    """
    import safetensors.torch

    if pool not in POOLS:
        raise ValueError(f"pool {not_one_of(pool, POOLS)}")
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"{folder}: a file of this name is in the way")
    state, config = load_encoder(encoder_file)
    described = json.dumps(_described(config, state["cls_token"].shape[-1], pool), indent=2)
    # Without config.json timm refuses the folder: it comes last.
    with atomic_path(folder / "model.safetensors") as file:
        safetensors.torch.save_file(state, file, {"format": "pt"})
    write_text(folder / "config.json", f"{described}\n")


def _described(config: dict[str, Any], width: int, pool: str) -> dict[str, Any]:
    """Describe the encoder in the form of timm's hub."""
    arguments = encoder_arguments(config)
    name, (rows, columns) = arguments.pop("name"), pair(arguments.pop("img_size"))
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": width,
        "global_pool": pool,
        # Pooled after the norm, as when serving: timm's own "avg" moves the norm behind the mean.
        "model_args": {**arguments, "img_size": [rows, columns], "global_pool": pool, "fc_norm": False},
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [config.get("in_chans", 3), rows, columns],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": config.get("crop_pct") or default_crop_pct((rows, columns)),
            "crop_mode": "center",
            "mean": config["mean"],
            "std": config["std"],
            "num_classes": 0,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
