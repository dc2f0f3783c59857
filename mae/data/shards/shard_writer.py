"""The writer of one shard: listed images, checked and copied into an ordinary WebDataset tar.

It runs in worker processes that import neither torch nor a training library.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from mae.data.decode import ALPHA_ALONE, Checked, UndecodableImage, check, is_deep, orientation_of, pixels
from mae.data.image_formats import as_png, colour_mode, reencoded_format
from mae.data.label_png import UnreadableMap
from mae.data.listing.listing_file import Listing
from mae.data.shards.annotation_checks import (
    InvalidAnnotation,
    check_label_map,
    check_upright,
    known_values,
    valid_objects,
)
from mae.data.shards.shard_plan import ShardTask
from mae.data.shards.tar_writer import TarWriter
from mae.data.sources.base import BROKEN_LINK, Entry
from mae.files import atomic_write, json_bytes


class SourceChanged(RuntimeError):
    """A listed file that is missing or has another size than the listing says."""


@dataclass
class Sidecar:
    """The contents of a finished shard, written next to it as JSON once the tar is whole.

    samples: [offset, size, label] of each image's bytes. class_counts: pixels of each value of the
    label maps, or objects of each category; None without annotations, and from releases that did not count
    them. remarks: images that may mean something else than their pixels. content: sum modulo 2^256, in
    hexadecimal, of one sha256 per file read (name, class, bytes), so that the sum over shards does not depend
    on their cuts. pixels: of each image; modes: images by colour mode; reencoded: images by the format that
    became PNG. Shards kept from earlier releases lack these three.
    """

    name: str
    bytes: int = 0
    sha256: str = ""
    content: str = "0"
    samples: list[list[int]] = field(default_factory=list)
    rejected: list[dict[str, str]] = field(default_factory=list)
    complaints: list[dict[str, str]] = field(default_factory=list)
    remarks: list[dict[str, str]] = field(default_factory=list)
    resized: int = 0
    boxes_only: int = 0
    class_counts: dict[str, int] | None = None
    pixels: list[int] = field(default_factory=list)
    modes: dict[str, int] = field(default_factory=dict)
    reencoded: dict[str, int] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write the sidecar next to its shard in `directory`."""
        with atomic_write(sidecar_path(directory, self.name)) as file:
            file.write(json.dumps(vars(self)).encode("ascii"))


@dataclass(frozen=True)
class CheckedAnnotations:
    """The checked annotations of an image. about: entries for the sample's json. faults: those left out.
    strays: parts left out of annotations that stay. counts: pixels of each value, or objects by category.
    """

    about: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    boxes_only: int = 0
    counts: dict[str, int] = field(default_factory=dict)


class ShardWriter:
    """A writer of one listing's shards into `directory`.

    max_side: images with a longer side than this are resized to it (bicubic, antialiased) and re-encoded as
    JPEG of that `quality`; None copies every image's bytes as they are. bits: 16-bit grey images are scaled
    by so many bits and re-encoded as 8-bit PNG; None copies them. TIFF, BMP and GIF become PNG.
    """

    def __init__(
        self,
        listing: Listing,
        directory: Path,
        *,
        max_side: int | None = None,
        quality: int = 90,
        bits: int | None = None,
    ) -> None:
        self.listing, self.directory = listing, directory
        self.max_side, self.quality, self.bits = max_side, quality, bits
        manifest = listing.manifest
        self._labels = {name: label for label, name in enumerate(manifest["classes"])}
        self._known: np.ndarray | None = None
        if manifest.get("task") == "segment":
            self._known = known_values(manifest["categories"], manifest["ignore"])

    def write(self, task: ShardTask) -> Sidecar:
        """Write the shard and, once it is whole, its sidecar.

        Raises: SourceChanged naming the file; DiskFull naming the shard.
        """
        annotated = "task" in self.listing.manifest
        sidecar = Sidecar(task.name, class_counts={} if annotated else None)
        content = 0
        with atomic_write(self.directory / task.name) as file, _Containers(self.listing.root) as containers:
            tar = TarWriter(file)
            for number, row in enumerate(task.rows, task.first_key):
                entry = self.listing[int(row)]
                data = containers.read(entry)
                stated = json.loads(entry.annotation) if entry.annotation else None
                label_map = None if self._known is None else _read_map(containers, entry, stated)
                content += _identity(entry, data, label_map)
                self._add(tar, f"{number:09d}", entry, data, sidecar, stated, label_map)
            sidecar.sha256, sidecar.bytes = tar.finish()
        sidecar.content = f"{content % 2**256:x}"
        sidecar.write(self.directory)
        return sidecar

    def _add(
        self,
        tar: TarWriter,
        key: str,
        entry: Entry,
        data: bytes,
        sidecar: Sidecar,
        stated: dict[str, Any] | None,
        label_map: bytes | None,
    ) -> None:
        try:
            body, checked = self._stored(entry, data)
            annotated = self._annotated(stated, label_map, data, checked)
            if self.max_side is not None and max(checked.width, checked.height) > self.max_side:
                body, checked = self._reduced(body, checked)
                sidecar.resized += 1
        except (UndecodableImage, UnreadableMap, InvalidAnnotation) as error:
            sidecar.rejected.append({"path": entry.path, "reason": str(error)})
            return
        sidecar.rejected += [{"path": entry.path, "reason": fault} for fault in annotated.faults]
        sidecar.remarks += [{"path": entry.path, "remark": one} for one in checked.remarks]
        complaints = [*([checked.complaint] if checked.complaint else []), *annotated.strays]
        sidecar.complaints += [{"path": entry.path, "complaint": one} for one in complaints]
        sidecar.boxes_only += annotated.boxes_only
        if annotated.counts:
            sidecar.class_counts = dict(Counter(sidecar.class_counts) + Counter(annotated.counts))
        _count(sidecar.modes, colour_mode(data))
        if (kind := reencoded_format(data)) is not None:
            _count(sidecar.reencoded, kind)
        label = -1 if entry.class_name is None else self._labels[entry.class_name]
        offset = tar.add(f"{key}.{checked.extension}", body)
        sidecar.samples.append([offset, len(body), label])
        sidecar.pixels.append(checked.width * checked.height)
        about: dict[str, Any] = {"path": entry.path, "width": checked.width, "height": checked.height}
        if label >= 0:
            tar.add(f"{key}.cls", str(label).encode("ascii"))
            about |= {"class": entry.class_name, "label": label}
        if label_map is not None:
            tar.add(f"{key}.labels.png", label_map)
        tar.add(f"{key}.json", json.dumps(about | annotated.about, sort_keys=True).encode("ascii"))

    def _stored(self, entry: Entry, data: bytes) -> tuple[bytes, Checked]:
        """Check an image; return the bytes to store at full size, and their measures."""
        if entry.size == BROKEN_LINK:
            raise UndecodableImage("a link that leads nowhere")
        deep = self.bits is not None and is_deep(data)
        if deep or reencoded_format(data) is not None:
            return as_png(data, self.bits if deep else None)
        checked = check(data)
        if ALPHA_ALONE in checked.remarks:  # as drawn: the digest in the index tells the stages that follow
            body, checked = as_png(data)
            return body, checked._replace(extension="png")
        return data, checked

    def _annotated(
        self, stated: dict[str, Any] | None, label_map: bytes | None, data: bytes, image: Checked
    ) -> CheckedAnnotations:
        """Check the annotations of an image. Raises InvalidAnnotation, UnreadableMap."""
        if stated is None:
            return CheckedAnnotations()
        check_upright(orientation_of(data))
        if label_map is not None and self._known is not None:
            counts = check_label_map(label_map, image.width, image.height, self._known)
            return CheckedAnnotations(counts=counts)
        sound, faults, strays, boxes_only = valid_objects(stated, image.width, image.height)
        about = {"image_id": stated["image_id"], "annotations": sound}
        counts = dict(Counter(str(one["category_id"]) for one in sound))
        return CheckedAnnotations(about, faults, strays, boxes_only, counts)

    def _reduced(self, data: bytes, checked: Checked) -> tuple[bytes, Checked]:
        assert self.max_side is not None
        scale = self.max_side / max(checked.width, checked.height)
        width, height = (max(1, round(side * scale)) for side in (checked.width, checked.height))
        image = Image.fromarray(pixels(data)).resize((width, height), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=self.quality, subsampling=0 if self.quality >= 95 else 2)
        return buffer.getvalue(), checked._replace(extension="jpg", width=width, height=height)


def _count(counter: dict[str, int], name: str) -> None:
    counter[name] = counter.get(name, 0) + 1


def sidecar_path(directory: Path, name: str) -> Path:
    """Name the sidecar file of the shard `name`."""
    return directory / f"{name}.json"


def read_sidecar(directory: Path, name: str) -> Sidecar | None:
    """Load the sidecar of a finished shard; None where it is missing or damaged."""
    try:
        return Sidecar(**json.loads(sidecar_path(directory, name).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _identity(entry: Entry, data: bytes, label_map: bytes | None) -> int:
    what = [entry.split, entry.path, entry.class_name, hashlib.sha256(data).hexdigest()]
    if label_map is not None:
        what.append(hashlib.sha256(label_map).hexdigest())
    elif entry.annotation:
        what.append(entry.annotation)
    return int.from_bytes(hashlib.sha256(json_bytes(what)).digest(), "big")


def _read_map(containers: _Containers, entry: Entry, stated: dict[str, Any] | None) -> bytes:
    assert stated is not None
    return containers.read(Entry(entry.split, stated["map"], None, stated["size"], stated["mtime_ns"]))


class _Containers:
    """A reader of entries' bytes that keeps open the tars with many of them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: dict[str, IO[bytes]] = {}

    def __enter__(self) -> _Containers:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._open.values():
            file.close()

    def read(self, entry: Entry) -> bytes:
        if entry.size == BROKEN_LINK:
            return b""
        path = self._root / (entry.container or entry.path)
        with _as_changed(path):
            if entry.container:
                if entry.container not in self._open:
                    self._open[entry.container] = path.open("rb", buffering=0)
                data = os.pread(self._open[entry.container].fileno(), entry.size, entry.offset)
            else:
                with path.open("rb", buffering=0) as file:
                    # One byte more than listed reveals a file that has grown.
                    data = _read(file, entry.size + 1)
        if len(data) != entry.size:
            now = f"at least {len(data)}" if len(data) > entry.size else str(len(data))
            raise SourceChanged(
                f"{path}: listed with {entry.size} bytes, has {now} now ({entry.path}); "
                "the source changed while it was sharded: run ingest again"
            )
        return data


def _read(file: Any, size: int) -> bytes:
    parts = []
    while size > 0:
        part = file.read(size)
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


@contextmanager
def _as_changed(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceChanged(
            f"{path}: listed, but cannot be read now ({error.strerror}); run ingest again"
        ) from error
