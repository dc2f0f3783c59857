"""The report's part on other versions of ImageNet."""

import csv
from collections.abc import Iterator
from typing import Any

from mae.config import Params
from mae.config.paths import REPORTS
from mae.report.paper_figures import paper_source, published
from mae.report.text import table

NAMES = {
    "imagenet_c": ("ImageNet-C", "mCE (lower is better)", "mCE"),
    "imagenet_a": ("ImageNet-A", "top-1", "top1"),
    "imagenet_r": ("ImageNet-R", "top-1", "top1"),
    "imagenet_sketch": ("ImageNet-Sketch", "top-1", "top1"),
}
# Images of the official sets, which the paper's numbers are of.
OFFICIAL = {"imagenet_c": 3_750_000, "imagenet_a": 7500, "imagenet_r": 30_000, "imagenet_sketch": 50_889}


def robustness_section(result: dict[str, Any], params: Params) -> Iterator[str]:
    """A row for each set that was judged, and ImageNet-C's corruptions; nothing where there was none."""
    if "skipped" in result:
        return
    yield "## Other versions of ImageNet"
    rows = [["set", "images", "classes", "figure", "%", "95 % interval", "paper %"]]
    judged = {name: _figures(name, result) for name in NAMES}
    whole = {name for name, of in judged.items() if of and of["samples"] == OFFICIAL[name]}
    paper = {name: figure for name, figure in published(params).items() if name in whole}
    for name, of in judged.items():
        if not of:
            continue
        called, figure, key = NAMES[name]
        interval = (f"{100 * of['top1_low']:.1f} to {100 * of['top1_high']:.1f}") if "top1_low" in of else ""
        rows.append(
            [
                called,
                f"{of['samples']:,}",
                f"{of['classes']}",
                figure,
                f"{100 * of[key]:.1f}",
                interval,
                f"{paper[name]:.1f}" if name in paper else "",
            ]
        )
    yield table(rows)
    yield (
        "The classifier of the fine-tuning, as it is. On ImageNet-A and -R it chooses among the classes that "
        "the set has. The paper's column stands only beside its own method and encoders on the whole "
        f"official sets.{paper_source(params, paper)}"
    )
    if judged["imagenet_c"]:
        yield from _corruptions()


def _figures(name: str, result: dict[str, Any]) -> dict[str, Any]:
    prefix = f"{name}_"
    return {key.removeprefix(prefix): value for key, value in result.items() if key.startswith(prefix)}


def _corruptions() -> Iterator[str]:
    with (REPORTS / "robustness" / "corruptions.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    severities = [column for column in found[0] if column.startswith("error_")]
    rows = [["corruption", "CE %", *(f"error at {column.removeprefix('error_')} %" for column in severities)]]
    for row in found:
        numbers = (f"{100 * float(row[column]):.1f}" for column in ("CE", *severities))
        rows.append([row["corruption"].replace("_", " "), *numbers])
    yield table(rows)
    yield "CE: errors summed over the severities, as a share of AlexNet's; mCE is their mean."
