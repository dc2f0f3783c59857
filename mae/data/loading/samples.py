"""Samples, a request at a time: read, decoded, augmented under their own seeds, put together as a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from mae.data.decode import UndecodableImage, decode
from mae.data.loading.seeding import preserved_generators, seed_generators

Batch = dict[str, Any]
_ALIGNED = 16  # bytes: where in a shared block a tensor of any type may begin


class Images(Protocol):
    """Encoded images by row: a split of shards (`Split`) or `ClassFolders`."""

    def __len__(self) -> int: ...

    def read(self, row: int) -> bytes: ...

    def label(self, row: int) -> int: ...

    def place(self, row: int) -> str:
        """Name the place of the row's image, for a person to find it."""


@dataclass(frozen=True)
class Sample:
    """One transformed image; `target` holds one value where the sample has a target, else none."""

    views: list[torch.Tensor]
    noise: torch.Tensor | None
    target: tuple[Any, ...]


@dataclass(frozen=True)
class SampleTransform:
    """The way from a decoded image to its part of the batch, the same for each loader.

    transform: an image -> an augmented one or a tuple of views that belong together, called `views` times;
    with targets (image, target) -> (image, target), called once. noise_shape: shape of the noise that
    torch.rand draws before the transform.
    """

    transform: Callable[..., Any]
    views: int = 1
    noise_shape: Sequence[int] | None = None

    def __call__(self, image: torch.Tensor, seed: Iterable[int], *target: Any) -> Sample:
        """Transform an image uint8 (3, H, W) and its target, if any; all randomness comes from `seed`
        alone."""
        seed_generators(*seed)
        noise = None if self.noise_shape is None else torch.rand(tuple(self.noise_shape))
        if target:
            view, *target_after = self.transform(image, *target)
            return Sample([view], noise, tuple(target_after))
        views: list[torch.Tensor] = []
        for _ in range(self.views):
            view = self.transform(image)
            views.extend(view if isinstance(view, (tuple, list)) else [view])
        return Sample(views, noise, ())


class Samples(Dataset):
    """A dataset that loads a whole request at a time: (n, 2) of stream position and place in `rows` -> a
    batch.

    target: reads the target of a row, for images that decode. replace: use the next row that decodes in place
    of one that does not.
    """

    def __init__(
        self,
        split: Images,
        sample_transform: SampleTransform,
        rows: np.ndarray,
        *,
        seed: tuple[int, int],
        target: Callable[[Any, int], Any] | None,
        replace: bool,
    ) -> None:
        if target is not None and sample_transform.views != 1:
            raise ValueError(f"{sample_transform.views} views of samples with targets: set views to 1")
        self.split, self.sample_transform, self.rows = split, sample_transform, rows
        self.seed, self.target, self.replace = seed, target, replace

    def __getitem__(self, request: np.ndarray) -> Batch:
        made: list[Sample] = []
        used: list[int] = []
        bad: list[str] = []
        with preserved_generators():
            for position, place in request.tolist():
                row, image = self._decoded(place, bad)
                if image is None:
                    continue
                target = () if self.target is None else (self.target(self.split, row),)
                made.append(self.sample_transform(image, (*self.seed, position), *target))
                used.append(row)
        return {
            "labels": torch.tensor([self.split.label(row) for row in used], dtype=torch.int64),
            "rows": torch.tensor(used, dtype=torch.int64),
            "skipped": len(bad),
            "undecodable": bad,
            **collate(made),
        }

    def _decoded(self, place: int, bad: list[str]) -> tuple[int, torch.Tensor | None]:
        """Decode the image at that place, or the next that decodes; None where none does or may replace
        it."""
        for step in range(len(self.rows) if self.replace else 1):
            row = int(self.rows[(place + step) % len(self.rows)])
            try:
                return row, decode(self.split.read(row))
            except UndecodableImage as error:
                bad.append(f"{self.split.place(row)}: {error}")
        return -1, None


def collate(made: Sequence[Sample]) -> Batch:
    """Collate the "images", "noise" and "targets" of a batch, if any; {} for no samples."""
    batch: Batch = {}
    if not made:
        return batch
    views = [list(view) for view in zip(*(one.views for one in made), strict=True)]
    if made[0].target:
        batch["images"], batch["targets"] = _with_targets(views[0], [one.target[0] for one in made])
    else:
        stacked = [_stack(view) for view in views]
        batch["images"] = stacked[0] if len(stacked) == 1 else stacked
    noise = [one.noise for one in made if one.noise is not None]
    if noise:
        batch["noise"] = torch.stack(noise)
    return batch


def _with_targets(images: list[torch.Tensor], targets: list[Any]) -> tuple[Any, list[Any]]:
    """Stack images of one size; in a worker, put tensors that are not stacked into one shared block."""
    one_size = len({image.shape for image in images}) == 1
    if get_worker_info() is None:
        return torch.stack(images) if one_size else images, targets
    # Sent one by one, every tensor would need an open file of its own, and a process may open few.
    places: list[tuple[Any, Any]] = [] if one_size else [(images, at) for at in range(len(images))]
    targets = [dict(one) if isinstance(one, dict) else one for one in targets]
    for one in targets:
        if isinstance(one, dict):
            places += [(one, name) for name, value in one.items() if isinstance(value, torch.Tensor)]
    moved = _in_one_block([holder[key] for holder, key in places])
    for (holder, key), tensor in zip(places, moved, strict=True):
        holder[key] = tensor
    return _stack(images) if one_size else images, targets


def _stack(images: list[torch.Tensor]) -> torch.Tensor:
    """Stack images (3, h, w) of one size into (n, 3, h, w), in memory that the main process can read."""
    if get_worker_info() is None:
        return torch.stack(images)
    # In a worker: straight into shared memory, which saves the copy to the main process.
    size = sum(image.nbytes for image in images)
    storage = images[0].untyped_storage()._new_shared(size)
    out = torch.empty(0, dtype=images[0].dtype).set_(storage).view(len(images), *images[0].shape)
    return torch.stack(images, out=out)


def _in_one_block(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Copy the tensors into one block of shared memory."""
    starts = np.cumsum([0] + [-(-tensor.nbytes // _ALIGNED) * _ALIGNED for tensor in tensors]).tolist()
    if starts[-1] == 0:
        return tensors
    block = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(starts[-1]))
    copies = []
    for tensor, start in zip(tensors, starts, strict=False):
        place = block[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        copies.append(place.copy_(tensor))
    return copies
