"""The summary of finished shards for a person: sizes, colour modes, and what was left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mae.data.listing.summary import left_out_lines
from mae.data.shards.class_counts import class_names, count_classes
from mae.data.shards.shard_writer import Sidecar
from mae.data.sources.base import Findings

_DETAILS = re.compile(r"\[.*?\]|\d[\d.,]*|'[^']*'")  # of a reason: numbers, boxes and names


def summarise(manifest: dict[str, Any], sidecars: Iterable[Sidecar]) -> dict[str, Any]:
    """Return the megapixels, colour modes, formats written anew, and what was left out by its reason; the
    images that may mean something else than their pixels; and with annotations the pixels of each class, or
    its objects, by split.

    Shards that an earlier release wrote say nothing of sizes and modes, so `measured` may be below `images`.
    """
    sides = list(sidecars)
    pixels = np.array([size for side in sides for size in side.pixels], dtype=np.int64)
    found: dict[str, Any] = {
        "images": sum(len(side.samples) for side in sides),
        "measured": len(pixels),
        "colour_modes": _sum(side.modes for side in sides),
        "reencoded": _sum(side.reencoded for side in sides),
        "left_out": _by_reason([one for side in sides for one in side.rejected]),
        "remarks": _by_remark([one for side in sides for one in side.remarks]),
    }
    counts = count_classes(manifest, sides)
    if counts is not None:
        names = class_names(manifest)
        found["class_counts"] = {
            split: {name: counted[value] for value, name in names.items()}
            for split, counted in counts.items()
        }
    if len(pixels):
        least, median, most = np.quantile(pixels, [0, 0.5, 1], method="lower").tolist()
        found["megapixels"] = {
            name: round(size / 1e6, 6)
            for name, size in (("least", least), ("median", median), ("most", most))
        }
    return found


def lines(summary: dict[str, Any]) -> list[str]:
    """Spell a summary for a log."""
    said = []
    if "megapixels" in summary:
        least, median, most = (f"{summary['megapixels'][name]:.2g}" for name in ("least", "median", "most"))
        of = "" if summary["measured"] == summary["images"] else f" (of {summary['measured']:,} new images)"
        modes = ", ".join(f"{count:,} {mode}" for mode, count in summary["colour_modes"].items())
        said.append(f"megapixels: least {least}, median {median}, most {most}; colours: {modes}{of}")
    if summary["reencoded"]:
        formats = ", ".join(f"{count:,} {name}" for name, count in summary["reencoded"].items())
        said.append(f"written as PNG, which every reader of shards takes: {formats}")
    for remark, about in summary["remarks"].items():
        examples = ", ".join(about["examples"])
        said.append(f"{about['count']:,} of {summary['images']:,} images have {remark} ({examples})")
    return said + left_out_lines(summary["left_out"])


def _sum(counters: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for counter in counters:
        total.update(counter)
    return dict(sorted(total.items(), key=lambda one: (-one[1], one[0])))


def _by_remark(remarks: Sequence[dict[str, str]]) -> dict[str, dict[str, Any]]:
    findings = Findings()
    for one in sorted(remarks, key=lambda one: one["path"]):
        findings.leave_out(one["remark"], one["path"])
    return findings.left_out


def _by_reason(rejected: Sequence[dict[str, str]]) -> dict[str, dict[str, Any]]:
    """Group rejected images and annotations; reasons that differ in numbers and names alone are one."""
    said: dict[str, str] = {}
    findings = Findings()
    for one in sorted(rejected, key=lambda one: one["path"]):
        reason = said.setdefault(_DETAILS.sub("#", one["reason"]), one["reason"])
        findings.leave_out(reason, one["path"])
    return findings.left_out
