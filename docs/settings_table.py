"""Write the reference of the settings from the types in mae/config and the comments of params.yaml."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae import config

MARK = "<!-- settings -->"
SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
PLAIN = {
    "number": "number",
    "integer": "integer",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
}
LINE = re.compile(r"^(?P<indent> *)(?P<key>\w+):(?:.*?\s# (?P<comment>.*))?")


@dataclass(frozen=True)
class Setting:
    """One key of params.yaml. `default` is None where the file must have the key."""

    key: str
    type: str
    value: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class Group:
    """One section of params.yaml; the group without a name holds the keys of the top level."""

    name: str
    about: str
    settings: tuple[Setting, ...]


def page(params: Path) -> str:
    """Return all sections as Markdown: a heading and a table for each."""
    return "\n\n".join(_markdown(group) for group in groups(params)) + "\n"


def groups(params: Path) -> list[Group]:
    """Return the sections of a params.yaml in their order."""
    values, meanings = config.read_yaml(params), comments(params.read_text())
    schema = config.Params.model_json_schema()
    top = {key: value for key, value in values.items() if not isinstance(value, dict)}
    found = [Group("", "", tuple(_settings(top, schema, schema, meanings, "")))]
    for name in values.keys() - top.keys():
        model = _resolved(schema["properties"][name], schema)
        rows = _settings(values[name], model, schema, meanings, f"{name}.")
        found.append(Group(name, meanings.get(name, ""), tuple(rows)))
    return sorted(found, key=lambda group: list(values).index(group.name) if group.name else -1)


def comments(text: str) -> dict[str, str]:
    """Map each key of a YAML text (`section.key`) to its comment, on its line and on the lines below."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        if line.strip().startswith("# ") and path:
            last = ".".join(name for _, name in path)
            found[last] = f"{found.get(last, '')} {line.strip()[2:]}".strip()
        elif match := LINE.match(line):
            path = [(indent, name) for indent, name in path if indent < len(match["indent"])]
            path.append((len(match["indent"]), match["key"]))
            if match["comment"]:
                found[".".join(name for _, name in path)] = match["comment"]
    return found


def _settings(
    values: Mapping[str, Any],
    model: Mapping[str, Any],
    schema: Mapping[str, Any],
    meanings: Mapping[str, str],
    path: str,
) -> Iterator[Setting]:
    for key, value in values.items():
        one = model["properties"][key]
        inner = _resolved(one, schema)
        if isinstance(value, dict) and "properties" in inner:
            yield from _settings(value, inner, schema, meanings, f"{path}{key}.")
        else:
            default = _shown(one["default"]) if "default" in one else None
            yield Setting(
                f"{path}{key}", _type(one, schema), _shown(value), default, _meaning(f"{path}{key}", meanings)
            )


def _meaning(key: str, meanings: Mapping[str, str]) -> str:
    """Return a key's own comment, else the comment of the same key in the first section that has one."""
    last = key.rpartition(".")[2]
    shared = (text for name, text in meanings.items() if "." in name and name.rpartition(".")[2] == last)
    return meanings.get(key) or next(shared, "")


def _resolved(one: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return schema["$defs"][one["$ref"].rpartition("/")[2]] if "$ref" in one else one


def _type(one: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Say a JSON schema in words: `integer > 0`, `text or null`, `list of ...`."""
    one = _resolved(one, schema)
    if "anyOf" in one:
        return " or ".join(_type(option, schema) for option in one["anyOf"])
    if "enum" in one or "const" in one:
        return ", ".join(f"`{value}`" for value in one.get("enum", [one.get("const")]))
    if "prefixItems" in one:
        return f"list of {len(one['prefixItems'])}: {_type(one['prefixItems'][0], schema)}"
    if one.get("type") == "array":
        return f"list of {_type(one['items'], schema)}"
    if one.get("type") == "object":
        return "a section for each name"
    # A bound that only keeps numbers from overflowing tells nobody anything.
    bounds = ", ".join(f"{sign} {one[name]:g}" for name, sign in SIGNS.items() if one.get(name, 1e9) < 1e9)
    return f"{PLAIN[one.get('type', 'number')]} {bounds}".strip()


def _shown(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _markdown(group: Group) -> str:
    rows = [
        f"| `{setting.key}` | {setting.type} | {setting.value} | {_cell(setting)} |"
        for setting in group.settings
    ]
    table = ["| key | type | `params.yaml` | meaning |", "|---|---|---|---|", *rows] if rows else []
    heading = [f"## `{group.name}`", ""] if group.name else []
    about = [f"{group.about[0].upper()}{group.about[1:]}.", ""] if group.about else []
    nothing = [] if rows else ["No settings of its own."]
    return "\n".join([*heading, *about, *table, *nothing])


def _cell(setting: Setting) -> str:
    default = f"; default: {setting.default}" if setting.default is not None else ""
    return f"{setting.meaning}{default}".replace("|", "\\|")
