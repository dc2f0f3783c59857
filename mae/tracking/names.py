"""Names and values as MLflow takes them: no longer, and of no other characters."""

from __future__ import annotations

import re
from typing import Any

PARAM_LIMIT = 6000  # characters of a value; MLflow refuses more
TAG_LIMIT = 8000


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested params as `a.b.c` -> text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = metric_name(f"{prefix}{key}")
        if isinstance(value, dict):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = str(value)
    return flat


def metric_name(name: str) -> str:
    """`name` with the characters that MLflow does not take replaced by `_`, at most 250 characters."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)[:250]


def clip(value: str, limit: int) -> str:
    """`value` with at most `limit` characters."""
    return value if len(value) <= limit else value[: limit - 1] + "…"
