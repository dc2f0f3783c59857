"""Lay a recipe, and single settings, over params.yaml; comments stay, an unknown key is an error."""

import os
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from mae import config


def lay(recipe: str | None, settings: list[str], *, onto: Path) -> Iterator[str]:
    """Change `onto` (params.yaml) as `recipe` and then `settings` (`section.key=value`) say.

    Yields a line for each changed key. The file is replaced only when the whole result is valid;
    raises config.InvalidParams otherwise.
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.representer.add_representer(type(None), _null)
    if not recipe and not settings:
        raise config.InvalidParams("name a recipe, a --set KEY=VALUE, or both")
    config.read_yaml(onto)  # its errors name the file
    values = yaml.load(onto)
    changes = merge(values, recipe, dict(pair for setting in settings for pair in parsed(setting).items()))
    result = StringIO()
    yaml.dump(values, result)
    config.parse(YAML(typ="safe").load(result.getvalue()), f"{onto} with {recipe or 'the settings'}")
    beside = onto.with_suffix(".yaml.tmp")
    beside.write_text(result.getvalue())
    os.replace(beside, onto)
    yield from changes


def merge(values: Any, recipe: str | None, settings: Mapping[str, Any], origin: str = "--set") -> list[str]:
    """Change sections in place as the file `recipe` and then `settings` ({"section.key": value}) say.

    Returns a line for each changed key; raises config.InvalidParams for one that there is not, naming the
    recipe, or `origin` for a setting. Whether the values can be is not looked at.
    """
    changes = list(_merge(values, config.read_yaml(Path(recipe)), recipe)) if recipe else []
    for key, overlay in settings.items():
        for name in reversed(key.split(".")):
            overlay = {name: overlay}
        changes += _merge(values, overlay, origin)
    return changes


def parsed(setting: str) -> dict[str, Any]:
    """`a.b=1` as {"a.b": 1}, `a={b: 1, c: 2}` as {"a.b": 1, "a.c": 2}: settings of one section add up.

    Raises config.InvalidParams where there is no `=`, or a value that is not YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    key, found, text = setting.partition("=")
    if not found:
        raise config.InvalidParams(f"--set {setting}: expected KEY=VALUE")
    try:
        return dict(leaves({key: YAML(typ="safe").load(text)}))
    except YAMLError as error:
        raise config.InvalidParams(f"--set {setting}: the value is not YAML: {error}") from None


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} as ("a.b", 1): every value under the names that lead to it."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _merge(values: Any, overlay: dict[str, Any], origin: str, path: str = "") -> Iterator[str]:
    for key, new in overlay.items():
        name = f"{path}.{key}" if path else str(key)
        if key not in values:
            raise config.InvalidParams(f"{origin}: {name} is not a key of the parameters")
        if isinstance(values[key], dict):
            if not isinstance(new, dict):
                raise config.InvalidParams(f"{origin}: {name} is a section, not a value")
            yield from _merge(values[key], new, origin, name)
        elif values[key] != new:
            yield f"{name}: {_plain(values[key])} -> {_plain(new)}"
            values[key] = _flow(new)


def _flow(value: Any) -> Any:
    """A list in one line, as params.yaml writes them."""
    from ruamel.yaml.comments import CommentedSeq

    if not isinstance(value, list):
        return value
    sequence = CommentedSeq(value)
    sequence.fa.set_flow_style()
    return sequence


def _null(representer: Any, _: None) -> Any:
    """`null`, as params.yaml writes it, not an empty value."""
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _plain(value: Any) -> str:
    return "null" if value is None else str(list(value) if isinstance(value, list) else value)
