"""The command `sync`: send what runs kept in files while the tracking server was away."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mae.config import Params

HELP = "send metrics kept in files while the MLflow server was away"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    del parser


def run(arguments: argparse.Namespace) -> None:
    from mae.config import load

    sync(load(arguments.params))


def sync(params: Params) -> None:
    """Send all runs below runtime.work_dir to the server, and print those that are left."""
    from mae import tracking
    from mae.stages.context.tracked_run import parent_file, tracking_uri

    left = tracking.deliver_all(parent_file(params), uri=tracking_uri(params))
    for directory in left:
        print(f"still waiting: {directory}")
    print("everything is delivered" if not left else f"{len(left)} run(s) left; run `mae sync` again")
