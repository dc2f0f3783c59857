"""The classes that a set's label maps or objects hold, and the sets that give nothing to learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from mae.data.shards.shard_writer import Sidecar
from mae.data.sources.base import SourceError


def count_classes(manifest: dict[str, Any], sidecars: Iterable[Sidecar]) -> dict[str, Counter[str]] | None:
    """Count pixels by split and value, or objects by split and category id; the keys are texts, as in JSON.

    None without annotations, and where shards of an earlier release, which did not count, are reused.
    """
    counts: dict[str, Counter[str]] = {split: Counter() for split in manifest["splits"]}
    for sidecar in sidecars:
        if sidecar.class_counts is None:
            return None
        counts[sidecar.name.split("-")[0]].update(sidecar.class_counts)
    return counts


def class_names(manifest: dict[str, Any]) -> dict[str, str]:
    """Map each value or category id, as text, to its name."""
    return {str(one["id"]): one["name"] for one in manifest["categories"]}


def check_classes(manifest: dict[str, Any], sidecars: Iterable[Sidecar], log: Callable[[str], None]) -> None:
    """Log the classes that no label map or object of a split has.

    Raises SourceError for label maps where train has one class alone, and where train has no object at all.
    """
    names, counts = class_names(manifest), count_classes(manifest, sidecars)
    if counts is None:
        log(f"{manifest['root']}: shards of an earlier release are reused, so no class is counted")
        return
    segments = manifest["task"] == "segment"
    if segments:
        _check_train(manifest, names, counts["train"])
    elif not any(counts["train"].values()):
        raise SourceError(
            f"{manifest['root']}: no image of train has an annotated object, so there is nothing to learn; "
            "add annotations, or lower shard_detect.max_rejected to see which ones were refused"
        )
    for split, counted in counts.items():
        absent = [name for value, name in names.items() if not counted[value]]
        if absent:
            few = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
            what = "none can be learnt" if split == "train" else "the figures leave them out"
            where = "label map" if segments else "annotation"
            log(f"{manifest['root']}: {len(absent)} classes are in no {where} of {split}, {what}: {few}")


def _check_train(manifest: dict[str, Any], names: dict[str, str], counted: Counter[str]) -> None:
    found = [value for value in names if counted[value]]
    if len(found) > 1:
        return
    others = [str(value) for value in manifest["ignore"] if counted[str(value)]]
    alone = f"one class alone, {names[found[0]]!r} (value {found[0]})" if found else "no class"
    ignored = sum(counted[value] for value in others)
    beside = f", and {ignored:,} pixels of {', '.join(others)}, not labelled" if others else ""
    remedy = "correct the maps, or the table of classes"
    if manifest["kind"] == "label_maps":
        values = sorted(map(int, [*found, *others]))
        example = values if len(values) == len(names) else [0, 255]
        remedy = (
            "name the value in the maps of each line of classes.txt in ingest_segment.values, such as "
            f"{example} (value 255 is a class where it is named)"
        )
    raise SourceError(
        f"{manifest['root']}: the label maps of train hold {alone}{beside}: there is nothing to learn, and "
        f"every figure would look perfect; {remedy}"
    )
