"""The embeddings of a folder of images in one file: in batches, resumed after a kill."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae.data.loading.folder_samples import folder_batches
from mae.data.sources.base import (
    Findings,
    FoundFile,
    SourceError,
    require_directory,
    stat_digest,
    walk_images,
)
from mae.progress import Progress
from mae.serving.embedding_file import ENDINGS, Part, Parts, rows_at_most, write_embeddings
from mae.serving.pooled_encoder import InputTransform, PooledEncoder
from mae.tracking.locks import hold

EVERY_S = 60.0  # between two parts at most, which a kill may cost


@dataclass(frozen=True)
class Loading:
    """The way to load and compute: images in a batch, worker processes, and the device.

    Raises ValueError for numbers that are too small.
    """

    batch_size: int
    workers: int
    device: torch.device

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise ValueError(
                f"batch size {self.batch_size} and {self.workers} workers: expected at least 1 and 0"
            )


@dataclass(frozen=True)
class Embedded:
    """The result: numbers of embeddings and of rejected images, and of other files that were left out."""

    embedded: int
    rejected: int
    left_out: int


def embed_folder(
    model: PooledEncoder,
    transform: InputTransform,
    root: Path,
    out: Path,
    *,
    patches: bool,
    about: dict[str, Any],
    loading: Loading,
    log: Callable[[str], None],
) -> Embedded:
    """Embed each image below `root` into `out`, .parquet or .npz, which appears whole or not at all.

    about: any JSON about the weights, for the file. patches: the tokens of all patches (L, D) in place of the
    pooled embedding (D). What is finished lies in parts next to `out`: after a kill, the same
    call goes on from there, unless weights, settings or images are others.
    Raises ValueError and SourceError naming what is wrong.
    """
    check_output(out)
    names: list[str] = []
    findings = Findings()
    digest = stat_digest(_noted(root, names, findings))
    if not names:
        raise SourceError(f"{root}: holds no image ({findings.ignored} other files)")
    plan = {"weights_digest": model.digest, "features": "patches" if patches else model.pool}
    about = {**about, **plan, "patch_grid": list(model.vit.patch_embed.grid_size)}
    folder = out.with_name(f".{out.name}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    lock = hold(folder / "parts", f"process {os.getpid()}", patience_s=10)  # workers outlive a kill by 5 s
    try:
        parts = Parts(folder, plan | {"images": digest})
        start = parts.images
        if start:
            log(f"going on after {start:,} images of an earlier run")
        batches = folder_batches(
            root,
            names,
            transform.scale,
            start=start,
            batch_size=loading.batch_size,
            workers=loading.workers,
        )
        progress = Progress(len(names), log, verb="embedded", done=start)
        for part in _in_parts(_computed(model, transform, batches, patches, loading.device, progress)):
            parts.add(part)
        count = write_embeddings(out, parts, names, about)
        parts.remove()
    finally:
        lock.release()
    return Embedded(count, len(names) - count, findings.ignored)


def check_output(out: Path) -> None:
    """Raise ValueError unless embeddings can be written to a file of this name."""
    if out.suffix not in ENDINGS:
        raise ValueError(f"{out}: name the output {' or '.join(f'NAME{ending}' for ending in ENDINGS)}")
    if out.is_dir():
        raise ValueError(f"{out}: a folder of this name is in the way")
    if in_the_way := next(
        (parent for parent in out.parents if parent.exists() and not parent.is_dir()), None
    ):
        raise ValueError(f"{out}: {in_the_way} is a file, not a folder")


def _noted(root: Path, names: list[str], findings: Findings) -> Iterator[FoundFile]:
    require_directory(root, "a folder of images")
    for found in walk_images(root, "", findings):
        names.append(found.path)
        yield found


@torch.inference_mode()
def _computed(
    model: PooledEncoder,
    transform: InputTransform,
    batches: Iterable[dict[str, Any]],
    patches: bool,
    device: torch.device,
    progress: Progress,
) -> Iterator[Part]:
    """Compute the embeddings of each batch, as a small part."""
    model.to(device)
    normalize = transform.normalize.to(device)
    empty = np.zeros(0, dtype=np.float32)
    for batch in batches:
        features = empty
        if batch["images"] is not None:
            images = normalize(batch["images"].to(device, non_blocking=True))
            features = (model.patches(images) if patches else model(images)).float().cpu().numpy()
        progress.add(len(batch["rows"]) + len(batch["rejected"]))
        yield Part(batch["rows"].numpy(), features, batch["rejected"])


def _in_parts(batches: Iterable[Part]) -> Iterator[Part]:
    """Join successive batches to parts, one at least every EVERY_S seconds."""
    held: list[Part] = []
    count, began = 0, time.monotonic()
    for batch in batches:
        held.append(batch)
        count += len(batch.rows) + len(batch.rejected)
        if count >= rows_at_most(batch.features.shape[1:]) or time.monotonic() - began >= EVERY_S:
            yield _joined(held)
            held, count, began = [], 0, time.monotonic()
    if held:
        yield _joined(held)


def _joined(held: list[Part]) -> Part:
    features = [part.features for part in held if len(part.rows)]
    return Part(
        np.concatenate([part.rows for part in held]),
        np.concatenate(features) if features else np.zeros(0, dtype=np.float32),
        [one for part in held for one in part.rejected],
    )


def default_batch(device: torch.device) -> int:
    """Return the number of images in a batch; on a CPU more would only delay the first sign of progress."""
    return 64 if device.type == "cuda" else 16


def default_workers() -> int:
    """Return the number of worker processes for a folder: half the processors, 8 at most."""
    return max(1, min(8, (os.cpu_count() or 2) // 2))
