"""The listing of a source: `listing.tsv`, one line per image, `manifest.json`, and a summary for a person.

It is made of names, sizes, times and annotations without decoding an image, so that every run can afford it;
equal sources give equal bytes.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from mae.data.listing.listing_file import LISTING, MANIFEST, SUMMARY, line_of
from mae.data.listing.summary import Census
from mae.data.sources.base import Source, SourceError
from mae.data.sources.coco import CocoSource
from mae.data.sources.folders import FlatSource, FolderSource
from mae.data.sources.imagenet_tars import ImageNetTarSource
from mae.data.sources.inaturalist import INat2017Source, INat2018Source, INat2019Source
from mae.data.sources.label_maps import Ade20kSource, CamVidSource, LabelMapSource
from mae.data.sources.places import Places205Source, Places365Source
from mae.files import atomic_write, json_bytes, move, read_json, sha256_of, write_json
from mae.suggestions import not_one_of

_KINDS = (
    FolderSource, ImageNetTarSource, FlatSource, CocoSource, Ade20kSource, CamVidSource, LabelMapSource,
    INat2017Source, INat2018Source, INat2019Source, Places205Source, Places365Source,
)  # fmt: skip
SOURCES: dict[str, type] = {one.kind: one for one in _KINDS}
FORMAT = 1


def open_source(kind: str, root: str | os.PathLike, val_fraction: float = 0.0, **options: Any) -> Source:
    """Open the source of that kind at `root`, with the options that it alone has.

    Raises SourceError for an unknown kind.
    """
    if kind not in SOURCES:
        raise SourceError(f"source kind {not_one_of(kind, sorted(SOURCES))}")
    return SOURCES[kind](root, val_fraction=val_fraction, **options)


def write_listing(source: Source, out_dir: str | os.PathLike) -> dict[str, Any]:
    """List the source into out_dir: listing.tsv, manifest.json and summary.json (see `summary`).

    The manifest: kind, root, splits {name: {count, bytes}}, classes (sorted; empty without labels),
    class_info, ignored (the number of files and folders left out), fingerprint (sha256 over names, sizes,
    times and annotations); with annotations also task and categories (`Source.annotation_info`). Files are
    rewritten only where they differ. A source is not read again while its `unchanged_key` equals that of the
    existing listing.

    Raises: SourceError for an empty split, or a class of `val` that `train` does not have.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    key = source.unchanged_key()
    known = _unchanged(out, source, key) if key else None
    if known is not None:
        return known
    census = Census()
    fingerprint = hashlib.sha256()
    with atomic_write(out / f"{LISTING}.new") as file:
        for entry in source.entries():
            line = line_of(entry)
            census.add(entry)
            fingerprint.update(line)
            file.write(line)
        census.check(source)
    _replace_if_different(out / f"{LISTING}.new", out / LISTING)
    manifest = {
        "format": FORMAT,
        "kind": source.kind,
        "root": os.fspath(source.root),
        "splits": census.splits,
        "classes": sorted(census.classes["train"] | census.classes["val"]),
        "class_info": source.class_info(),
        "ignored": source.findings.ignored,
        "unchanged_key": key,
        "fingerprint": fingerprint.hexdigest(),
        **source.annotation_info(),
    }
    write_json(out / SUMMARY, census.summary(source))
    write_json(out / MANIFEST, manifest)
    return manifest


def _unchanged(out: Path, source: Source, key: dict[str, list[int]]) -> dict[str, Any] | None:
    """Load the existing manifest, if the files of the source are unchanged and its listing is whole."""
    manifest = read_json(out / MANIFEST)
    if manifest is None:
        return None
    same = {"format": FORMAT, "kind": source.kind, "root": os.fspath(source.root), "unchanged_key": key}
    if any(manifest.get(name) != value for name, value in same.items()):
        return None
    listing = out / LISTING
    whole = (
        (out / SUMMARY).is_file() and listing.is_file() and sha256_of(listing) == manifest.get("fingerprint")
    )
    return manifest if whole else None


def _replace_if_different(new: Path, old: Path) -> None:
    if old.is_file() and old.stat().st_size == new.stat().st_size and sha256_of(old) == sha256_of(new):
        new.unlink()
    else:
        move(new, old)


def manifest_digest(manifest: dict[str, Any]) -> str:
    """Compute the sha256 over the manifest without the path of the source."""
    return hashlib.sha256(
        json_bytes({name: value for name, value in manifest.items() if name != "root"})
    ).hexdigest()
