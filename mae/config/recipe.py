"""Apply a recipe, and single settings, to params.yaml; comments stay, an unknown key is an error."""

from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from mae import config
from mae.files import write_text
from mae.suggestions import did_you_mean


def apply(recipe: str | None, settings: list[str], params: Path) -> list[str]:
    """Change the file `params` by `recipe` and then by `settings` (`section.key=value`).

    A key that the file lacks, because it is older, is added. Returns a line for each added or changed key.
    The file is replaced only when the whole result is valid; raises config.InvalidParams otherwise.
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.representer.add_representer(type(None), _null)
    if not recipe and not settings:
        raise config.InvalidParams("name a recipe, a --set KEY=VALUE, or both")
    config.read_yaml(params)  # its errors name the file
    values = yaml.load(params)
    changes = merge(values, recipe, dict(pair for setting in settings for pair in parsed(setting).items()))
    changes += _add_section_of_method(values)
    result = StringIO()
    yaml.dump(values, result)
    config.parse(YAML(typ="safe").load(result.getvalue()), f"{params} with {recipe or 'the settings'}")
    write_text(params, result.getvalue())
    return changes


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a recipe with what it is based on: `base` names a recipe in the same folder, applied first.

    Returns plain sections; a list replaces the base's. Raises config.InvalidParams for a file that is missing
    or no YAML, and for recipes that are based on each other.
    """
    chain: list[Path] = []
    sections: list[dict[str, Any]] = []
    file: Path | None = path
    while file is not None:
        if file.resolve() in [one.resolve() for one in chain]:
            names = " -> ".join(one.name for one in (*chain, file))
            raise config.InvalidParams(f"{path}: these recipes are based on each other: {names}")
        chain.append(file)
        own = config.read_yaml(file)
        base = own.pop("base", None)
        if base is not None and not isinstance(base, str):
            raise config.InvalidParams(f"{file}: base: expected the name of a recipe, found {base!r}")
        sections.append(own)
        file = file.parent / base if base else None
    values: dict[str, Any] = {}
    for one in reversed(sections):
        _overlay(values, one)
    return values


def merge(values: Any, recipe: str | None, settings: Mapping[str, Any], origin: str = "--set") -> list[str]:
    """Change sections in place by the file `recipe` and then by `settings` ({"section.key": value}).

    Returns a line for each added or changed key. Raises config.InvalidParams for an unknown key, naming the
    recipe, or `origin` for a setting. The values themselves are not checked.
    """
    changes = list(_merge(values, read_recipe(Path(recipe)), recipe)) if recipe else []
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
        said = getattr(error, "problem", None) or type(error).__name__
        remedy = "close brackets and quotes, and quote a text with special characters"
        raise config.InvalidParams(f"--set {setting}: the value is not YAML ({said}); {remedy}") from None


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """{"a": {"b": 1}} as ("a.b", 1): every value under the names that lead to it."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _overlay(values: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, new in over.items():
        if isinstance(new, dict) and isinstance(values.get(key), dict):
            _overlay(values[key], new)
        else:
            values[key] = new


def _merge(values: Any, overlay: Mapping[str, Any], origin: str, path: tuple[str, ...] = ()) -> Iterator[str]:
    for key, new in overlay.items():
        here = (*path, str(key))
        name = ".".join(here)
        added = key not in values
        if added:
            values[key] = _default_of(here, origin)
        if isinstance(values[key], dict):
            if not isinstance(new, dict):
                raise config.InvalidParams(f"{origin}: {name} is a section, not a value")
            if added:
                yield f"{name}: added"
            yield from _merge(values[key], new, origin, here)
        elif _differ(values[key], new):
            yield f"{name}: {_plain(values[key])} -> {_plain(new)}"
            values[key] = _flow(new)
        elif added:
            yield f"{name}: added"


def _differ(old: Any, new: Any) -> bool:
    """Tell values apart that Python takes for equal: true, 1 and 1.0."""
    kinds = (bool, int, float)
    return old != new or [isinstance(old, kind) for kind in kinds] != [
        isinstance(new, kind) for kind in kinds
    ]


def _default_of(path: tuple[str, ...], origin: str) -> Any:
    """Find the default of a key that the file lacks: null or an empty section for one that has none.

    Raises InvalidParams for a key that does not exist.
    """
    model: Any = config.Params
    field: Any = None
    for name in path:
        if get_origin(model) is dict:  # of sections by name: flows.stages
            field, model = None, get_args(model)[1]
            continue
        fields = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
        if name not in fields:
            close = did_you_mean(name, fields)
            raise config.InvalidParams(f"{origin}: {'.'.join(path)} is not a key of the parameters{close}")
        field, model = fields[name], fields[name].annotation
    if field is None or field.is_required():
        return {} if isinstance(model, type) and issubclass(model, BaseModel) else None
    default = field.get_default(call_default_factory=True)
    return default.model_dump(mode="json") if isinstance(default, BaseModel) else default


def _add_section_of_method(values: Any) -> list[str]:
    """Write the section of the chosen method where an older file lacks it: DVC depends on it by name."""
    section = values.get("pretrain")
    method = section.get("method") if isinstance(section, dict) else None
    if not isinstance(method, str) or method in values or method not in config.Params.model_fields:
        return []
    values[method] = _default_of((method,), "pretrain.method")
    return [f"{method}: added with its defaults"]


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
