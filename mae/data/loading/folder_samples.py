"""Images of a folder, read in place: no listing, no shards, no labels; each rejected one has a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from mae.data.decode import UndecodableImage, decode
from mae.data.loading.batches import NONE_MAY_BE_SKIPPED, checked_batches
from mae.data.loading.samples import Batch, Sample, SampleTransform, collate


class FolderSamples(Dataset):
    """A dataset that loads a request at a time: rows of `names` -> a batch.

    names: paths below `root`. A batch has "images" (none where all were rejected), "rows" (n,) and
    "rejected": [(row, reason)].
    """

    def __init__(
        self, root: Path, names: Sequence[str], transform: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        self.root, self.names = root, names
        self.sample_transform = SampleTransform(transform)

    def __getitem__(self, request: np.ndarray) -> Batch:
        made: list[Sample] = []
        used: list[int] = []
        rejected: list[tuple[int, str]] = []
        for row in request.tolist():
            try:
                image = decode((self.root / self.names[row]).read_bytes())
            except UndecodableImage as error:
                rejected.append((row, str(error)))
            except OSError as error:
                rejected.append((row, f"cannot be read ({error.strerror})"))
            else:
                made.append(Sample([self.sample_transform.transform(image)], None, ()))
                used.append(row)
        rows = torch.tensor(used, dtype=torch.int64)
        return {"images": None, "rows": rows, "rejected": rejected, "undecodable": [], **collate(made)}


def folder_batches(
    root: Path,
    names: Sequence[str],
    transform: Callable[[torch.Tensor], torch.Tensor],
    *,
    start: int,
    batch_size: int,
    workers: int,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """Load the images from row `start` on, in order, as batches of `FolderSamples`."""
    rows = np.arange(start, len(names))
    requests = [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    samples = FolderSamples(root, names, transform)
    return checked_batches(samples, requests, workers, prefetch, NONE_MAY_BE_SKIPPED)
