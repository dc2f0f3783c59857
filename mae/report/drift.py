"""Comparison of the listed images with an earlier listing, as JSON and as pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from mae.config import Params
from mae.config.paths import IMAGES
from mae.data.listing.drift import Difference, class_shift, compare
from mae.data.listing.image_statistics import STATISTICS, ImageSample, distances, measure
from mae.data.listing.listing_file import Listing
from mae.files import write_json
from mae.report.plots.bars import histograms, share_bars
from mae.report.plots.panels import panels

EXAMPLES = 20
CLASSES_SHOWN = 30


def drift(params: Params, since: Path, out: Path) -> None:
    """Compare data/ingest with the listing in `since`; write out/drift.json and pictures of the new images.

    classes.png (only with labels): shares of the classes before and among the new images. statistics.png:
    distributions of image statistics, before and new. examples.png: some images of each. Changed images count
    as new; the images before are those that did not change. Raises SourceError where either is no listing.
    """
    before, after = Listing(since), Listing(IMAGES.listing)
    found = compare(before, after)
    out.mkdir(parents=True, exist_ok=True)
    most, seed = params.retrain.samples, params.seed
    old = measure(after, found.unchanged, most=most, seed=seed)
    new = measure(after, found.new_or_changed, most=most, seed=seed)
    result = {
        "since": str(since),
        "counts": {
            "before": len(before),
            "now": len(after),
            **{name: len(getattr(found, name)) for name in ("new", "changed", "removed", "unchanged")},
        },
        "examples": {
            "new": _examples(after, found.new),
            "changed": _examples(after, found.changed),
            "removed": _examples(before, found.removed),
        },
        "classes": _classes(found, seed),
        "images": _images(old, new),
    }
    write_json(out / "drift.json", result)
    _draw(out, result, old, new)
    print(_summary(result))


def _examples(listing: Listing, rows: np.ndarray) -> list[str]:
    """Pick the paths of up to 20 of the rows, evenly spaced."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(EXAMPLES, len(rows))).astype(np.int64))
    return [listing[int(rows[place])].path for place in places]


def _classes(found: Difference, seed: int) -> dict[str, Any] | None:
    """Measure the shift of the classes, and list those that shifted most; None without labels."""
    if not found.classes:
        return None
    before, arrived = found.by_class
    shift, chance = class_shift(before, arrived, seed)
    shares = np.stack([counts / max(1, counts.sum()) for counts in (before, arrived)])
    most = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:CLASSES_SHOWN]
    rows = [
        {"class": found.classes[one], "before": float(shares[0, one]), "new": float(shares[1, one])}
        for one in most
    ]
    return {"shift": shift, "chance": chance, "count": len(found.classes), "shares": rows}


def _images(old: ImageSample, new: ImageSample) -> dict[str, Any]:
    """Measure the shift of the statistic that differs most; null where one side has no usable image."""
    apart = distances(old, new)
    worst = max(apart, key=lambda name: apart[name][0], default=None)
    return {
        "looked_at": {side: len(one.values) + one.bad for side, one in (("before", old), ("new", new))},
        "undecodable": new.undecodable,
        "blank": {"before": old.blank, "new": new.blank},
        "shift": None if worst is None else apart[worst][0],
        "p": None if worst is None else apart[worst][1],
        "most": worst,
        "statistics": {
            name: {
                "distance": distance,
                "p": p,
                **{
                    side: float(np.median(one.values[:, STATISTICS.index(name)]))
                    for side, one in (("before", old), ("new", new))
                },
            }
            for name, (distance, p) in apart.items()
        },
    }


def _draw(out: Path, result: dict[str, Any], old: ImageSample, new: ImageSample) -> None:
    for name in ("classes.png", "statistics.png", "examples.png"):
        (out / name).unlink(missing_ok=True)  # of an earlier comparison
    if not len(new.values):
        return
    columns = {name: (old.values[:, column], new.values[:, column]) for column, name in enumerate(STATISTICS)}
    histograms(out / "statistics.png", columns, title="Statistics of images, before and new")
    before, arrived = (_framed(one.thumbnails) for one in (old, new))
    count = min(len(before), len(arrived))
    if count:
        pairs = np.stack([before[:count], arrived[:count]], axis=1)
        panels(out / "examples.png", pairs, ("before", "new"), caption="drawn at random")
    else:
        panels(out / "examples.png", arrived[:, None], ("new",), caption="drawn at random")
    if result["classes"] and sum(row["new"] for row in result["classes"]["shares"]):
        share_bars(out / "classes.png", result["classes"]["shares"], title="Classes whose shares differ most")


def _framed(thumbnails: np.ndarray) -> np.ndarray:
    """Add a grey frame: a white image on a white page would not be seen."""
    return np.pad(thumbnails, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.6)


def _summary(result: dict[str, Any]) -> str:
    counts, classes, images = (result[name] for name in ("counts", "classes", "images"))
    text = ", ".join(f"{counts[name]:,} {name}" for name in ("new", "changed", "removed", "unchanged"))
    if classes:
        text += f"; classes shifted by {classes['shift']:.2f} (by chance up to {classes['chance']:.2f})"
    if images["shift"] is not None:
        text += f"; images by {images['shift']:.2f} ({images['most']})"
    return text
