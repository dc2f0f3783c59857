"""ILSVRC-2012 in its official archives: `ILSVRC2012_img_train.tar` (a tar of one tar per class),
`ILSVRC2012_img_val.tar` and the devkit, read in place.

Nothing is extracted: an entry is an offset into one of the two tars.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from mae.data.sources.base import (
    Entry,
    Findings,
    SourceError,
    is_image,
    refuse_val_fraction,
    require_directory,
)

TRAIN = "ILSVRC2012_img_train.tar"
VAL = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12"
_NO_IMAGES = "members without an image's ending"
_META = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


class ImageNetTarSource:
    """The official tars in one folder, with the devkit as a folder or as `.tar.gz`.

    Classes are wnids (`n01440764`); the devkit's own numbers serve the ground truth only; `class_info` passes
    them on.
    """

    kind = "imagenet_tar"

    def __init__(self, root: str | os.PathLike, val_fraction: float = 0.0):
        refuse_val_fraction(self.kind, val_fraction)
        self.root = Path(root)
        self.findings = Findings()

    def entries(self) -> Iterator[Entry]:
        self._require()
        synsets = self._synsets()
        yield from self._train()
        yield from self._val(synsets)

    def unchanged_key(self) -> dict[str, list[int]]:
        self._require()
        places = [self.root / TRAIN, self.root / VAL, *self._devkit_files()]
        status = {str(place.relative_to(self.root)): place.stat() for place in places}
        return {name: [one.st_size, one.st_mtime_ns] for name, one in status.items()}

    def class_info(self) -> dict[str, dict]:
        return {
            wnid: {"ilsvrc2012_id": number, "words": words}
            for number, (wnid, words) in self._synsets().items()
        }

    def annotation_info(self) -> dict[str, Any]:
        return {}

    def _require(self) -> None:
        require_directory(self.root, f"a folder with {TRAIN}, {VAL} and {DEVKIT}[.tar.gz]")
        for name in (TRAIN, VAL):
            if not (self.root / name).is_file():
                raise SourceError(f"{self.root / name}: missing; expected the official {name}")
        self._devkit_files()

    def _devkit_files(self) -> list[Path]:
        folder = self.root / DEVKIT
        if folder.is_dir():
            files = [folder / _META, folder / _GROUND_TRUTH]
            for file in files:
                if not file.is_file():
                    raise SourceError(f"{file}: missing from the devkit")
            return files
        packed = self.root / f"{DEVKIT}.tar.gz"
        if not packed.is_file():
            raise SourceError(f"{folder}: missing; expected the devkit as this folder or as {packed.name}")
        return [packed]

    def _devkit_read(self, name: str) -> bytes:
        folder = self.root / DEVKIT
        if folder.is_dir():
            return (folder / name).read_bytes()
        packed = self.root / f"{DEVKIT}.tar.gz"
        try:
            with tarfile.open(packed, "r:gz") as tar:
                member = tar.extractfile(f"{DEVKIT}/{name}")
                if member is not None:
                    return member.read()
        except KeyError:
            pass
        except (tarfile.TarError, EOFError, OSError) as error:
            raise SourceError(f"{packed}: cannot be read: {error}") from error
        raise SourceError(f"{packed}: holds no {DEVKIT}/{name}")

    def _synsets(self) -> dict[int, tuple[str, str]]:
        """Read ILSVRC2012_ID -> (wnid, words) of the leaf classes."""
        from scipy.io import loadmat

        try:
            table = loadmat(io.BytesIO(self._devkit_read(_META)), squeeze_me=True)["synsets"]
            rows = [
                (int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"]), int(row["num_children"]))
                for row in table.reshape(-1)
            ]
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise SourceError(f"{self.root / DEVKIT}: {_META} holds no table 'synsets': {error}") from error
        return {number: (wnid, words) for number, wnid, words, children in rows if children == 0}

    def _train(self) -> Iterator[Entry]:
        path = self.root / TRAIN
        mtime = path.stat().st_mtime_ns
        with path.open("rb") as file:
            for outer in _members(file, path):
                name = Path(outer.name)
                if name.suffix != ".tar":
                    raise SourceError(f"{path}: member {outer.name}: expected one <wnid>.tar per class")
                part = _FilePart(file, outer.offset_data, outer.size)
                for inner in _members(part, path / outer.name):
                    if not is_image(inner.name):
                        self.findings.leave_out(_NO_IMAGES, f"{TRAIN}/{outer.name}/{inner.name}")
                        continue
                    offset = outer.offset_data + inner.offset_data
                    yield Entry(
                        "train", f"{name.stem}/{inner.name}", name.stem, inner.size, mtime, TRAIN, offset
                    )

    def _val(self, synsets: dict[int, tuple[str, str]]) -> Iterator[Entry]:
        path = self.root / VAL
        mtime = path.stat().st_mtime_ns
        ground_truth = self._devkit_read(_GROUND_TRUTH).split()
        with path.open("rb") as file:
            for member in _members(file, path):
                if not is_image(member.name):
                    self.findings.leave_out(_NO_IMAGES, f"{VAL}/{member.name}")
                    continue
                try:
                    number = int(Path(member.name).stem.rsplit("_", 1)[-1])
                    wnid = synsets[int(ground_truth[number - 1 if number > 0 else len(ground_truth)])][0]
                except (ValueError, IndexError, KeyError):
                    raise SourceError(
                        f"{path}: member {member.name}: the devkit's ground truth "
                        f"({len(ground_truth)} lines, {len(synsets)} classes) has no class for it"
                    ) from None
                yield Entry("val", member.name, wnid, member.size, mtime, VAL, member.offset_data)


def _members(file: IO[bytes] | _FilePart, name: Path) -> Iterator[tarfile.TarInfo]:
    """Stream the regular files of a tar from their headers alone; raise SourceError where it is cut short."""
    file.seek(0, os.SEEK_END)
    end = file.tell()
    file.seek(0)
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", file), mode="r:") as tar:
            for member in tar:
                vars(tar)["members"].clear()  # else tarfile keeps every header it has seen
                if member.offset_data + member.size > end:
                    raise SourceError(f"{name}: cut short within {member.name}; fetch it again")
                if member.isreg():
                    yield member
            # For tarfile a file that stops between two members, or within a header, is whole.
            file.seek(tar.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise SourceError(f"{name}: cut short at byte {tar.offset}; fetch it again")
    except (tarfile.TarError, EOFError) as error:
        raise SourceError(f"{name}: not a whole tar file ({error}); fetch it again") from error


class _FilePart(io.RawIOBase):
    """A part of an open file as a file of its own. It reads only the bytes asked for."""

    def __init__(self, file: IO[bytes], start: int, size: int):
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        data = os.pread(self._file.fileno(), wanted, self._start + self._at)
        self._at += len(data)
        return data
