"""The recipes of a project: found by name, listed with their purpose, and undone."""

import hashlib
import re
import textwrap
from pathlib import Path

from mae import config
from mae.config.recipe import leaves, read_recipe
from mae.files import read_json, write_json, write_text
from mae.suggestions import did_you_mean

_SENTENCE = re.compile(r".+?(?=\. [A-Z`]|\.$|$)")
_MOST = 20  # changes that can be undone


def find(name: str, params: Path) -> str:
    """Find a recipe by its path, or by its name in the folder `recipes` next to `params`.

    Raises config.InvalidParams for a name that is not there, with a close one.
    """
    named = _folder(params) / f"{name}.yaml"
    if Path(name).is_file() or Path(name).suffix:
        return name
    if named.is_file():
        return str(named)
    close = did_you_mean(name, [file.stem for file in _files(params)])
    raise config.InvalidParams(f"{named}: no such recipe{close}; `mae recipe` alone lists them")


def describe(params: Path) -> list[tuple[str, str, bool]]:
    """List (name, purpose, applied) of each recipe; applied: `params` has all of its values but folders."""
    present = dict(leaves(config.read_yaml(params)))

    def applied(file: Path) -> bool:
        values = leaves(read_recipe(file))
        return all(present.get(key, ...) == value for key, value in values if not key.endswith(".root"))

    return [(file.stem, _purpose(file), applied(file)) for file in _files(params)]


def remember(params: Path, before: str) -> None:
    """Note the text that `params` had before a change, so that `undo` can restore it."""
    after = params.read_text()
    if after != before:
        kept = [*(read_json(_record(params)) or []), {"before": before, "after": _digest(after)}]
        write_json(_record(params), kept[-_MOST:])


def undo(params: Path) -> None:
    """Restore the text that `params` had before the last change of `mae recipe`.

    Raises config.InvalidParams where there is none, or `params` was changed otherwise since.
    """
    kept = read_json(_record(params))
    if not kept:
        raise config.InvalidParams(f"{params}: no change of `mae recipe` is left to undo")
    last = kept.pop()
    if _digest(params.read_text()) != last["after"]:
        raise config.InvalidParams(
            f"{params}: changed by hand since the last `mae recipe`, and undoing would lose that; "
            "`git diff` shows it"
        )
    write_text(params, last["before"])
    write_json(_record(params), kept)


def _folder(params: Path) -> Path:
    return params.parent / "recipes"


def _files(params: Path) -> list[Path]:
    return sorted(_folder(params).glob("*.yaml"))


def _purpose(file: Path) -> str:
    """Read the first sentence of a recipe's comment."""
    lines = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    found = _SENTENCE.match(" ".join(lines))
    return textwrap.shorten(found.group(), 110, placeholder=" ...") if found else ""


def _record(params: Path) -> Path:
    return params.parent / "work" / f"{params.name}.undo.json"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
