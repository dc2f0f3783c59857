"""The embedded demo in ImageNet's layout: real pixels, offline, the same on every machine.

`write_tree` writes the tree of any layout atomically.
"""

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

from mae.data.demo.scenes import CLASSES, Look, Scene, check, scenes
from mae.files import write_json
from mae.progress import Progress

FORMAT = 1  # raise it whenever the same settings give other files; otherwise old trees stay in place
_MTIME = 1_262_304_000  # 2010-01-01: a listing of names, sizes and times is then the same on every machine
_QUALITY = 95  # JPEG, with colour at full resolution: subsampling would smear strokes of this size


Log = Callable[[str], None]
ScenesBySplit = Mapping[str, Iterator[Scene]]


def write_demo(
    root: Path,
    *,
    train: int,
    val: int,
    size: int,
    seed: int,
    look: Look | None = None,
    log: Log | None = None,
) -> dict[str, Any]:
    """Write `root/imagenet/{train,val}/<class id>/<name>.JPEG` and `synset_words.txt`.

    train, val: numbers of scenes; size: their side in pixels; see `scenes` for their content. For writing,
    the result and errors see `write_tree`; the marker is `root/.complete`.
    """
    settings = DemoSettings({"train": train, "val": val}, size, seed, look or Look())
    return write_tree(root, "imagenet", _write_imagenet, settings, len(CLASSES), log, marker=".complete")


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


def class_id(label: int) -> str:
    """Name the folder of a class in the form of a WordNet id: an n and eight digits."""
    return f"n{label:08d}"


def name_of(scene: Scene) -> str:
    """Name a file, without extension, as ILSVRC does: the class is in the name in train, not in val."""
    if scene.split == "train":
        return f"{class_id(scene.label)}_{scene.index}"
    return f"demo_{scene.split}_{scene.index + 1:08d}"


def _write_imagenet(folder: Path, scenes_by_split: ScenesBySplit) -> None:
    for split, split_scenes in scenes_by_split.items():
        for label in range(len(CLASSES)):
            (folder / split / class_id(label)).mkdir(parents=True)
        for scene in split_scenes:
            path = folder / split / class_id(scene.label) / f"{name_of(scene)}.JPEG"
            write_file(path, jpeg(scene.image))
    words = "".join(f"{class_id(label)} {word}\n" for label, word in enumerate(CLASSES))
    write_file(folder / "synset_words.txt", words.encode())


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
