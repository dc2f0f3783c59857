"""The command `recipe`: list recipes, apply one and single settings to params.yaml, and undo that."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "list the recipes; apply one, and single settings, to the parameters; undo the last change"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="its name, or its file: recipes/imagenet_vit_base.yaml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. ingest.root=/data"
    )
    parser.add_argument("--undo", action="store_true", help="take back the last change by this command")


def run(arguments: argparse.Namespace) -> None:
    """Change the file that --params names, and print a line for each changed key; alone, list the recipes."""
    from mae.config import InvalidParams, recipe, recipe_list

    params = Path(arguments.params)
    if arguments.undo:
        if arguments.recipe or arguments.set:
            raise InvalidParams("--undo goes alone: it takes a recipe and its settings back together")
        recipe_list.undo(params)
        print(f"{params}: as before the last change")
    elif not arguments.recipe and not arguments.set:
        recipes = recipe_list.describe(params)
        if not recipes:
            raise InvalidParams(
                f"{params.parent / 'recipes'}: holds no recipe; name a file, or --set KEY=VALUE"
            )
        for name, purpose, applied in recipes:
            print(f"{name:24}{'[applied] ' if applied else ''}{purpose}")
    else:
        file = recipe_list.find(arguments.recipe, params) if arguments.recipe else None
        before = params.read_text() if params.is_file() else ""
        for line in recipe.apply(file, arguments.set, params):
            print(line)
        recipe_list.remember(params, before)
