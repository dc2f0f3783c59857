"""Names and values as MLflow takes them: no longer, and of no other characters."""

from __future__ import annotations

import re
from typing import Any

PARAM_LIMIT = 6000  # characters of a value; MLflow refuses more
TAG_LIMIT = 8000


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested params to `a.b.c` -> text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = metric_name(f"{prefix}{key}")
        if isinstance(value, dict):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = str(value)
    return flat


def metric_name(name: str) -> str:
    """Replace the characters of `name` that MLflow does not take by `_`, and cut it to 250 characters."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)[:250]


def clip(value: str, limit: int) -> str:
    """Cut `value` to `limit` characters."""
    return value if len(value) <= limit else value[: limit - 1] + "…"
