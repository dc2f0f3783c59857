"""Images in class folders, read in place: for evaluation sets without listing or shards."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mae.data.sources.base import SourceError, directories, require_directory, walk_images


class ClassFolders:
    """The images of `root/<class>/`, by row, in the order of their names: `Images` for a loader.

    labels: class name -> label. classes: the sorted names of the folders. digest: sha256 over the paths and
    sizes, 16 hex digits.

    Raises: SourceError naming folders that are no known class, or that hold no image.
    """

    def __init__(self, root: str | os.PathLike, labels: Mapping[str, int]) -> None:
        self.root = Path(root)
        require_directory(self.root, "a folder for each class")
        self.classes = directories(self.root)
        if not self.classes:
            raise SourceError(f"{self.root}: holds no folder; expected one for each class")
        strange = [name for name in self.classes if name not in labels]
        if strange:
            named = ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
            raise SourceError(f"{self.root}: {named}: not among the {len(labels)} known classes")
        self._paths: list[str] = []
        found_labels: list[int] = []
        digest = hashlib.sha256()
        for name in self.classes:
            before = len(self._paths)
            for found in walk_images(self.root, name):
                self._paths.append(found.path)
                digest.update(os.fsencode(f"{found.path}\t{found.size}\n"))
            if len(self._paths) == before:
                raise SourceError(f"{self.root / name}: holds no image; fetch the set again")
            found_labels += [labels[name]] * (len(self._paths) - before)
        self._labels = np.array(found_labels, dtype=np.int64)
        self.digest = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, row: int) -> bytes:
        """Read the encoded image of a row."""
        return (self.root / self._paths[row]).read_bytes()

    def label(self, row: int) -> int:
        return int(self._labels[row])

    def place(self, row: int) -> str:
        return str(self.root / self._paths[row])
