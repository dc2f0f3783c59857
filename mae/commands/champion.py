"""The command `champion`: write the champion's weights to a file that a training can continue from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mae.config import Params

HELP = "write the champion's weights, for pretrain.init"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", help="a folder; the file in it is named by its sha256, and printed")


def run(arguments: argparse.Namespace) -> None:
    from mae.config import load

    champion(load(arguments.params), Path(arguments.out))


def champion(params: Params, out: Path) -> None:
    """Write the champion encoder's method file to out/<sha256>.safetensors and print its path."""
    from mae import registry
    from mae.stages.context.tracked_run import tracking_uri

    print(registry.champion_method(tracking_uri(params), params.registry.encoder, out))
