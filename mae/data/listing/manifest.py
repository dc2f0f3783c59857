"""The listing of a source: `listing.tsv`, one line per image, and its summary `manifest.json`.

It is made of names, sizes, times and annotations without opening an image, so that every run can afford it;
equal sources give equal bytes.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from mae.data.listing.listing_file import LISTING, MANIFEST, line_of
from mae.data.sources.base import SPLITS, Entry, Source, SourceError
from mae.data.sources.coco import CocoSource
from mae.data.sources.folders import FlatSource, FolderSource
from mae.data.sources.imagenet_tars import ImageNetTarSource
from mae.data.sources.inaturalist import INat2017Source, INat2018Source, INat2019Source
from mae.data.sources.label_maps import Ade20kSource, CamVidSource, LabelMapSource
from mae.data.sources.places import Places205Source, Places365Source
from mae.files import atomic_write, json_bytes, move, read_json, sha256_of, write_json

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
        raise SourceError(f"source kind {kind!r} is not one of {', '.join(sorted(SOURCES))}")
    return SOURCES[kind](root, val_fraction=val_fraction, **options)


def write_listing(source: Source, out_dir: str | os.PathLike) -> dict[str, Any]:
    """List the source into out_dir/listing.tsv and out_dir/manifest.json.

    The manifest: kind, root, splits {name: {count, bytes}}, classes (sorted; empty without labels),
    class_info, ignored (the number of files that are no images), fingerprint (sha256 over names, sizes, times
    and annotations); with annotations also task and categories (`Source.annotation_info`). Files are
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
    census = _Census()
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
        "ignored": source.ignored,
        "unchanged_key": key,
        "fingerprint": fingerprint.hexdigest(),
        **source.annotation_info(),
    }
    write_json(out / MANIFEST, manifest)
    return manifest


class _Census:
    """Counts per split and the classes, collected while the listing is written."""

    def __init__(self) -> None:
        self.splits: dict[str, dict[str, int]] = {}
        self.classes: dict[str, set[str]] = {split: set() for split in SPLITS}

    def add(self, entry: Entry) -> None:
        split = self.splits.setdefault(entry.split, {"count": 0, "bytes": 0})
        split["count"] += 1
        split["bytes"] += max(0, entry.size)
        if entry.class_name is not None:
            self.classes[entry.split].add(entry.class_name)

    def check(self, source: Source) -> None:
        fraction = getattr(source, "val_fraction", 0.0)
        if "train" not in self.splits and "val" not in self.splits:
            raise SourceError(f"{source.root}: no images found (expected jpg, jpeg, png or webp files)")
        if "train" not in self.splits:
            raise SourceError(f"{source.root}: the split 'train' has no images")
        if "val" not in self.splits and ((source.root / "val").is_dir() and source.kind == "folder"):
            raise SourceError(f"{source.root / 'val'}: the split 'val' has no images; add some or remove it")
        if "val" not in self.splits and fraction > 0:
            raise SourceError(
                f"{source.root}: val_fraction {fraction} of {self.splits['train']['count']} images held none "
                "out; raise it, or set it to 0 for no val split"
            )
        strange = sorted(self.classes["val"] - self.classes["train"])
        if strange and not fraction:  # files held out by name may hold a small class as a whole
            more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
            raise SourceError(
                f"{source.root}: val has classes that train lacks: {', '.join(strange[:3])}{more}"
            )


def _unchanged(out: Path, source: Source, key: dict[str, list[int]]) -> dict[str, Any] | None:
    """Load the existing manifest, if the files of the source are unchanged and its listing is whole."""
    manifest = read_json(out / MANIFEST)
    if manifest is None:
        return None
    same = {"format": FORMAT, "kind": source.kind, "root": os.fspath(source.root), "unchanged_key": key}
    if any(manifest.get(name) != value for name, value in same.items()):
        return None
    listing = out / LISTING
    whole = listing.is_file() and sha256_of(listing) == manifest.get("fingerprint")
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
