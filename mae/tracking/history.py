"""The metrics of a run as its file tells them, for reports and plots."""

from __future__ import annotations

import json
from pathlib import Path


def history(metrics: Path) -> dict[str, list[tuple[int, float]]]:
    """`metrics.jsonl` as key -> [(step, value), ...] in the order logged; {} where the file is missing."""
    curves: dict[str, list[tuple[int, float]]] = {}
    if not metrics.exists():
        return curves
    for number, text in enumerate(metrics.read_text().splitlines(), 1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            if number == 1 or not text.endswith("}"):
                continue  # the last line of a process killed while writing it
            raise ValueError(f"{metrics}: line {number} is not JSON") from None
        for key, value in line.items():
            if key not in ("step", "time"):
                curves.setdefault(key, []).append((line["step"], float(value)))
    return curves
