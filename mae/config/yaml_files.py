"""YAML files as plain values, read as DVC reads them; an error names the file."""

from pathlib import Path
from typing import Any

from mae.suggestions import did_you_mean


class InvalidParams(ValueError):
    """The parameters cannot be used; the message names each key and what is wrong with it."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file as plain values, numbers as DVC reads them (YAML 1.2: `1e-4` is a float)."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values = YAML(typ="safe").load(path)
    except FileNotFoundError:
        close = did_you_mean(path.name, [one.name for one in path.parent.glob("*.yaml")])
        remedy = close or "; run from the project's root, or pass --params for other parameters"
        raise InvalidParams(f"{path}: no such file{remedy}") from None
    except OSError as error:
        raise InvalidParams(f"{path}: cannot be read ({error.strerror}); name a file by --params") from None
    except (YAMLError, UnicodeDecodeError) as error:
        said = str(error).partition("\n\nTo suppress")[0]  # advice to a programmer, with an address
        raise InvalidParams(f"{path}: not YAML: {said}") from None
    if not isinstance(values, dict):
        raise InvalidParams(f"{path}: expected sections, found {type(values).__name__}")
    return values
