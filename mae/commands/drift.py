"""The command `drift`: compare the listed images with an earlier listing."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "compare the listed images with an earlier listing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--since", required=True, metavar="DIR", help="a kept copy of data/ingest")
    parser.add_argument("--out", required=True, metavar="DIR", help="for drift.json and its pictures")


def run(arguments: argparse.Namespace) -> None:
    from mae.config import load
    from mae.report.drift import drift

    drift(load(arguments.params), Path(arguments.since), Path(arguments.out))
