"""The command `check`: look at everything that a later stage will need, before hours of compute."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "check the settings, and all that the stages will need: data, weights, device, stores, models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="check with this setting"
    )


def run(arguments: argparse.Namespace) -> None:
    """Tell every fault at once, each with its key and what to do. Raises InvalidParams; changes nothing."""
    from mae import config
    from mae.config import recipe
    from mae.stages.preflight.checks import preflight

    values = config.read_yaml(Path(arguments.params))
    settings = [pair for setting in arguments.set for pair in recipe.parsed(setting).items()]
    recipe.merge(values, None, dict(settings))
    params, faults = config.inspect(values)
    config.refuse([*faults, *preflight(params)], arguments.params)
    print(f"{arguments.params}: every setting is valid, and what the stages need is there")
