"""The report's part on other versions of ImageNet."""

import csv
from typing import Any

from mae.config import Params
from mae.config.paths import REPORTS
from mae.report.paper_figures import paper_sources, published

# Set -> its name, the figure's label and the figure's key.
SETS = {
    "imagenet_c": ("ImageNet-C", "mCE (lower is better)", "mCE"),
    "imagenet_a": ("ImageNet-A", "top-1", "top1"),
    "imagenet_r": ("ImageNet-R", "top-1", "top1"),
    "imagenet_sketch": ("ImageNet-Sketch", "top-1", "top1"),
}
# Images of the official sets, which the paper's numbers are of.
OFFICIAL = {"imagenet_c": 3_750_000, "imagenet_a": 7500, "imagenet_r": 30_000, "imagenet_sketch": 50_889}


def robustness(results: dict[str, Any], params: Params) -> dict[str, Any] | None:
    """Give a row for each evaluated set, and ImageNet-C's corruptions; None where the stage was skipped."""
    result = results["robustness"]
    if "skipped" in result:
        return None
    found = {name: _figures(name, result) for name in SETS}
    found = {name: figures for name, figures in found.items() if figures}
    whole = {name for name, figures in found.items() if figures["samples"] == OFFICIAL[name]}
    paper = {name: figure for name, figure in published(params).items() if name in whole}
    rows = []
    for name, figures in found.items():
        title, label, key = SETS[name]
        row = {**figures, "name": title, "label": label, "figure": figures[key]}
        rows.append(row | ({"paper": paper[name]} if name in paper else {}))
    return {
        "rows": rows,
        "sources": paper_sources(params, paper),
        "corruptions": _corruptions() if "imagenet_c" in found else None,
    }


def _figures(name: str, result: dict[str, Any]) -> dict[str, Any]:
    prefix = f"{name}_"
    return {key.removeprefix(prefix): value for key, value in result.items() if key.startswith(prefix)}


def _corruptions() -> dict[str, Any]:
    with (REPORTS / "robustness" / "corruptions.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    severities = [column for column in found[0] if column.startswith("error_")]
    rows = [
        {
            "name": row["corruption"].replace("_", " "),
            "figures": [float(row[column]) for column in ("CE", *severities)],
        }
        for row in found
    ]
    return {
        "columns": [f"error at severity {column.removeprefix('error_')}, %" for column in severities],
        "rows": rows,
    }
