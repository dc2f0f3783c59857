"""Writes the embedded demo: real pixels in the official layouts, offline and the same everywhere."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mae.data.scenes import CLASSES, Look, Scene, check, scenes

FORMAT = 1  # raise it whenever the same settings give other files, or directories of old ones stay in place
_MTIME = 1_262_304_000  # 2010-01-01: a listing of names, sizes and times is then the same on every machine
_QUALITY = 95  # JPEG, with colour at full resolution: subsampled, it would smear strokes of this size


def write_demo(
    root: Path,
    *,
    train: int,
    val: int,
    size: int,
    seed: int,
    look: Look | None = None,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write `root/imagenet/{train,val}/<class id>/<name>.JPEG` and `synset_words.txt`; return what is there.

    train, val: numbers of scenes; size: their side in pixels; see `scenes` for what they show.
    The tree appears whole: it is written under another name, then moved into place. `root/.complete` holds
    the settings' digest and what was written, so a second call does nothing, and other settings (or files
    that are missing or cut) write anew. One writer at a time. Raises ValueError for impossible settings, and
    where `root/imagenet` is there but not the demo's.
    """
    look, counts = look or Look(), {"train": train, "val": val}
    for split, count in counts.items():
        check(split, count, size=size, seed=seed, look=look)
    settings = {"format": FORMAT, "counts": counts, "size": size, "seed": seed, "look": asdict(look)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    folder, marker = root / "imagenet", root / ".complete"
    known = _read_marker(marker)
    if known is None and folder.exists():
        raise ValueError(
            f"{folder} is not the demo's (no {marker.name} beside it): move it, or write elsewhere"
        )
    if known is not None and known["digest"] == digest and _weigh(folder) == (known["files"], known["bytes"]):
        return known
    partial = root / ".imagenet.partial"
    shutil.rmtree(partial, ignore_errors=True)
    _write_imagenet(partial, counts, size=size, seed=seed, look=look, log=log or (lambda _: None))
    files, total = _weigh(partial)
    complete = {"digest": digest, "files": files, "bytes": total, "counts": counts, "classes": len(CLASSES)}
    # A kill between these steps leaves a marker that fits no settings: the next call writes anew.
    _write_marker(marker, {**complete, "digest": "unfinished"})
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)
    _write_marker(marker, complete)
    return complete


def class_id(label: int) -> str:
    """The folder of a class, in the form of a WordNet id: an n and eight figures."""
    return f"n{label:08d}"


def name_of(scene: Scene) -> str:
    """A file name without extension, formed as ILSVRC's: train tells the class, val does not."""
    if scene.split == "train":
        return f"{class_id(scene.label)}_{scene.index}"
    return f"demo_{scene.split}_{scene.index + 1:08d}"


def _write_imagenet(
    folder: Path,
    counts: dict[str, int],
    *,
    size: int,
    seed: int,
    look: Look,
    log: Callable[[str], None],
) -> None:
    for split, count in counts.items():
        for label in range(len(CLASSES)):
            (folder / split / class_id(label)).mkdir(parents=True)
        for scene in scenes(split, count, size=size, seed=seed, look=look):
            path = folder / split / class_id(scene.label) / f"{name_of(scene)}.JPEG"
            _write(path, _jpeg(scene.image))
            if (scene.index + 1) % 1000 == 0 or scene.index + 1 == count:
                log(f"demo: {scene.index + 1:,} of {count:,} {split} scenes")
    words = "".join(f"{class_id(label)} {word}\n" for label, word in enumerate(CLASSES))
    _write(folder / "synset_words.txt", words.encode())


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    os.utime(path, (_MTIME, _MTIME))


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()


def _weigh(folder: Path) -> tuple[int, int]:
    """Numbers of files and of bytes below a folder."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def _read_marker(path: Path) -> dict[str, Any] | None:
    """What the marker says; None where there is none. One that cannot be read fits no settings."""
    try:
        found = json.loads(path.read_text())
        return found if {"digest", "files", "bytes"} <= set(found) else {"digest": "unreadable"}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return {"digest": "unreadable"}


def _write_marker(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
