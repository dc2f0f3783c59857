"""A demo's folder: written whole, once for the same settings, the same bytes on every machine."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mae.data.demo.scenes import Look, Scene, check, scenes
from mae.files import write_json
from mae.progress import Progress

FORMAT = 1  # raise it whenever the same settings give other files; otherwise old trees stay in place
_MTIME = 1_262_304_000  # 2010-01-01: a listing of names, sizes and times is then the same on every machine
_QUALITY = 95  # JPEG, with colour at full resolution: subsampling would smear strokes of this size

Log = Callable[[str], None]
ScenesBySplit = Mapping[str, Iterator[Scene]]


@dataclass(frozen=True)
class DemoSettings:
    """The settings of a demo: numbers of scenes by split, their side in pixels, seed and look."""

    counts: dict[str, int]
    size: int
    seed: int
    look: Look

    def check(self) -> None:
        """Raise ValueError, naming the setting, where such scenes are impossible."""
        for split, count in self.counts.items():
            check(split, count, size=self.size, seed=self.seed, look=self.look)

    def scenes(self, split: str, log: Log) -> Iterator[Scene]:
        """Compose the scenes of a split, and log progress."""
        count = self.counts[split]
        progress = Progress(count, log, verb="demo: wrote", unit=f"{split} scenes")
        for scene in scenes(split, count, size=self.size, seed=self.seed, look=self.look):
            yield scene
            progress.add(1)


def write_tree(
    root: Path,
    name: str,
    write: Callable[[Path, ScenesBySplit], None],
    settings: DemoSettings,
    classes: int,
    log: Log | None = None,
    *,
    marker: str | None = None,
) -> dict[str, Any]:
    """Fill `root/name` by `write(folder, scenes by split)`, unless it holds the same demo already.

    The tree appears whole: it is written under another name, then renamed. A marker next to it
    (`root/.name.complete`) holds the settings' digest and the size of the tree. So a second call does
    nothing, and other settings, or missing and cut files, write it again. One writer at a time.

    Returns: digest, files, bytes, counts (scenes by split), classes. Raises ValueError for impossible
    settings, and where `root/name` exists but is not a demo.
    """
    settings.check()
    identity = {"format": FORMAT, **asdict(settings)}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder, marker_file = root / name, root / (marker or f".{name}.complete")
    known = _read_marker(marker_file)
    if known is None and folder.exists():
        raise ValueError(
            f"{folder} is not the demo's (no {marker_file.name} next to it): move it, or write elsewhere"
        )
    if known is not None and known["digest"] == digest and _weigh(folder) == (known["files"], known["bytes"]):
        return known
    partial = root / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    write(partial, {split: settings.scenes(split, log or (lambda _: None)) for split in settings.counts})
    files, total = _weigh(partial)
    complete = {
        "digest": digest,
        "files": files,
        "bytes": total,
        "counts": settings.counts,
        "classes": classes,
    }
    # A kill between these steps leaves a marker that fits no settings: the next call writes it again.
    write_json(marker_file, {**complete, "digest": "unfinished"})
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)
    write_json(marker_file, complete)
    return complete


def write_file(path: Path, content: bytes) -> None:
    """Write a file of the demo, with the same modification time everywhere."""
    path.write_bytes(content)
    os.utime(path, (_MTIME, _MTIME))


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode an image (H, W, 3) with little loss."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()


def _weigh(folder: Path) -> tuple[int, int]:
    """Count the files and bytes below a folder."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def _read_marker(path: Path) -> dict[str, Any] | None:
    """Read the marker; None where it is missing. A damaged one fits no settings."""
    try:
        found = json.loads(path.read_text())
        return found if {"digest", "files", "bytes"} <= set(found) else {"digest": "unreadable"}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return {"digest": "unreadable"}
