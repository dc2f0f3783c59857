"""The command `export`: write an encoder in another project's form."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

HELP = "write an encoder in another project's form, and print the lines that load it"
LINES = {
    "folder": """\
import timm

model = timm.create_model({local}, pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
embedding = model(transform(image)[None])  # image: an upright PIL image in RGB""",
    "timm": """\
import timm

model = timm.create_model("{name}", {arguments}, num_classes=0, checkpoint_path={out}).eval()
embedding = model.forward_features(images)[:, 1:].mean(dim=1)  # images: normalised by {colours}""",
    "official": """\
import torch

weights = torch.load({out}, weights_only=True)["model"]  # images: normalised by {colours}""",
    "hf": """\
import torch
from transformers import ViTMAEModel

model = ViTMAEModel.from_pretrained({out}).eval()
length = model.embeddings.patch_embeddings.num_patches
order = torch.arange(length).float().expand(len(images), -1)  # else transformers shuffles the patches
tokens = model(images, noise=order).last_hidden_state  # images: normalised by {colours}""",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="?",
        default="models/pretrain/encoder.safetensors",
        help="the encoder file (default: %(default)s)",
    )
    parser.add_argument(
        "target",
        help="the folder to write, for timm and hf; or a file, .pth or .safetensors, for timm and official",
    )
    parser.add_argument(
        "--format",
        default="timm",
        choices=["timm", "official", "hf"],
        help="the project that reads it (default: %(default)s)",
    )
    parser.add_argument(
        "--pool",
        choices=["avg", "token"],
        help="the embedding of a folder of timm: the mean patch token or the class token (default: avg)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the folder or the file that the target's name asks for, and print how to load it."""
    from mae.interchange import export
    from mae.serving.model_file import config_of
    from mae.serving.timm_folder import export_timm_folder

    source, target, form = arguments.source, Path(arguments.target), arguments.format
    if form == "timm" and (target.is_dir() or not target.suffix):
        form = "folder"
        export_timm_folder(source, target, arguments.pool or "avg")
    elif arguments.pool is not None:
        raise ValueError(
            f"--pool: only a folder of timm holds it; name one in place of {target}, without an ending"
        )
    else:
        export(source, target, form)
    print(f"{target}: load it with\n\n{_lines(form, target, config_of(Path(source)))}")


def _lines(form: str, target: Path, config: dict[str, Any]) -> str:
    from mae.interchange import encoder_arguments

    arguments = encoder_arguments(config)
    name = arguments.pop("name")
    spelled = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    colours = f"mean {config['mean']}, std {config['std']}"
    out, local = json.dumps(str(target)), json.dumps(f"local-dir:{target}")
    return LINES[form].format(out=out, local=local, name=name, arguments=spelled, colours=colours)
