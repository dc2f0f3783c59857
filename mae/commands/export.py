"""The command `export`: write an encoder in another project's form."""

from __future__ import annotations

import argparse

HELP = "write an encoder in another project's form"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="e.g. models/pretrain/encoder.safetensors")
    parser.add_argument("target", help="the file to write, .pth or .safetensors; for hf a folder")
    parser.add_argument(
        "--format",
        default="timm",
        choices=["timm", "official", "hf"],
        help="the project that reads it (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    from mae.interchange import export

    export(arguments.source, arguments.target, arguments.format)
