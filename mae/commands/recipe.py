"""The command `recipe`: apply a recipe and single settings to params.yaml."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "apply a recipe, and single settings, to the parameters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", help="e.g. recipes/imagenet_vit_base.yaml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. ingest.root=/data"
    )


def run(arguments: argparse.Namespace) -> None:
    """Change the file that --params names, and print a line for each changed key."""
    from mae.config.recipe import apply

    for line in apply(arguments.file, arguments.set, Path(arguments.params)):
        print(line)
