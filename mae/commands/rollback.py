"""The command `rollback`: make the previous champions the champions again."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mae.config import Params

HELP = "make the previous champion the champion again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        nargs="?",
        default="encoder",
        choices=["encoder", "detector", "segmenter"],
        help="the encoder goes with its classifier (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    from mae.config import load

    rollback(load(arguments.params), arguments.model)


def rollback(params: Params, kind: str = "encoder") -> None:
    """Roll back encoder and classifier, the detector or the segmenter, and print their aliases."""
    from mae import registry
    from mae.stages.context.tracked_run import tracking_uri

    names = params.registry
    models = {
        "encoder": [names.encoder, names.classifier],
        "detector": [names.detector],
        "segmenter": [names.segmenter],
    }[kind]
    for row in registry.rollback(tracking_uri(params), models):
        print(f"{row['name']} version {row['version']}: {', '.join(row['aliases'])}")
