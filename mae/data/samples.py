"""Samples of a split, a request at a time: read, decoded, augmented under their own seeds, stacked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from mae.data.decode import UndecodableImage, decode
from mae.data.index import Split
from mae.data.seeding import generators_kept, seed_generators

Batch = dict[str, Any]


class Samples(Dataset):
    """Loads a whole request at a time: (n, 2) of stream position and place in `rows` -> a batch."""

    def __init__(
        self,
        split: Split,
        transform: Callable[[torch.Tensor], Any],
        rows: np.ndarray,
        *,
        seed: tuple[int, int],
        views: int,
        noise_shape: Sequence[int] | None,
        replace: bool,
    ) -> None:
        self.split, self.transform, self.rows = split, transform, rows
        self.seed, self.views, self.replace = seed, views, replace
        self.noise_shape = None if noise_shape is None else tuple(noise_shape)

    def __getitem__(self, request: np.ndarray) -> Batch:
        images: list[list[torch.Tensor]] = []
        noise: list[torch.Tensor] = []
        used: list[int] = []
        bad: list[str] = []
        with generators_kept():
            for position, place in request.tolist():
                row, image = self._decoded(place, bad)
                if image is None:
                    continue
                seed_generators(*self.seed, position)
                if self.noise_shape is not None:
                    noise.append(torch.rand(self.noise_shape))
                images.append(views_of(image, self.transform, self.views))
                used.append(row)
        batch = {
            "labels": torch.tensor([self.split.label(row) for row in used], dtype=torch.int64),
            "rows": torch.tensor(used, dtype=torch.int64),
            "skipped": len(bad),
            "undecodable": bad,
        }
        if used:
            stacked = [stack(list(view)) for view in zip(*images, strict=True)]
            batch["images"] = stacked[0] if len(stacked) == 1 else stacked
        if noise:
            batch["noise"] = torch.stack(noise)
        return batch

    def _decoded(self, place: int, bad: list[str]) -> tuple[int, torch.Tensor | None]:
        """The image at that place, or the next that decodes; None where none does or may stand in."""
        for step in range(len(self.rows) if self.replace else 1):
            row = int(self.rows[(place + step) % len(self.rows)])
            try:
                return row, decode(self.split.read(row))
            except UndecodableImage as error:
                bad.append(_name(self.split, row, error))
        return -1, None


def views_of(image: torch.Tensor, transform: Callable[[torch.Tensor], Any], views: int) -> list[torch.Tensor]:
    """`transform` applied `views` times, each time giving one tensor or several that belong together."""
    made: list[torch.Tensor] = []
    for _ in range(views):
        view = transform(image)
        made.extend(view if isinstance(view, (tuple, list)) else [view])
    return made


def stack(images: list[torch.Tensor]) -> torch.Tensor:
    """Equal images (3, h, w) -> (n, 3, h, w), made where the main process can read it."""
    if get_worker_info() is None:
        return torch.stack(images)
    # In a worker: straight into shared memory, which spares the copy on the way to the main process.
    size = sum(image.nbytes for image in images)
    storage = images[0].untyped_storage()._new_shared(size)
    out = torch.empty(0, dtype=images[0].dtype).set_(storage).view(len(images), *images[0].shape)
    return torch.stack(images, out=out)


def _name(split: Split, row: int, error: UndecodableImage) -> str:
    try:
        about = split.meta(row)
        where = f"sample {about['key']} ({about['path']}) of {split.directory / about['shard']}"
    except (RuntimeError, ValueError, KeyError):  # its description is damaged as well
        where = f"row {row} of split {split.name} in {split.directory}"
    return f"{where}: {error}"
