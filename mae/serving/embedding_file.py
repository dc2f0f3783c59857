"""Files of embeddings, .parquet or .npz, made of parts that outlive a kill; a part at a time is in memory."""

from __future__ import annotations

import json
import math
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mae.files import atomic_path, atomic_write, read_json, write_csv, write_json

ENDINGS = (".parquet", ".npz")
ROWS, BYTES = 1024, 1 << 26  # of a part at most: what a kill may cost, and what lies in memory


@dataclass(frozen=True)
class Part:
    """Embeddings of successive images: float32 (n, ...) of `rows` (n,); rejected: [(row, reason)]."""

    rows: np.ndarray
    features: np.ndarray
    rejected: list[tuple[int, str]]


def rows_at_most(shape: Sequence[int]) -> int:
    """Return the number of embeddings (*shape) in a part: ROWS, or fewer where these have more than BYTES."""
    return max(1, min(ROWS, BYTES // (4 * math.prod(shape))))


class Parts:
    """The finished parts of an output, in order, in a hidden folder next to it.

    plan: all that the embeddings depend on. Parts of another plan are removed. images: the number of images
    in the parts, embedded or rejected.
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if read_json(folder / "plan.json") != plan:
            for old in folder.glob("*.npz"):
                old.unlink()
            write_json(folder / "plan.json", plan)
        self._count = 0
        while self._file(self._count).is_file():
            self._count += 1
        self.images = sum(len(part.rows) + len(part.rejected) for part in self)

    def add(self, part: Part) -> None:
        """Write the next part, whole or not at all."""
        rejected_rows = np.array([row for row, _ in part.rejected], dtype=np.int64)
        reasons = np.array([reason for _, reason in part.rejected], dtype=np.str_)
        with atomic_write(self._file(self._count)) as file:
            np.savez(file, rows=part.rows, features=part.features, rejected=rejected_rows, reasons=reasons)
        self._count += 1

    def __iter__(self) -> Iterator[Part]:
        for number in range(self._count):
            with np.load(self._file(number)) as kept:
                rejected = list(zip(kept["rejected"].tolist(), kept["reasons"].tolist(), strict=True))
                yield Part(kept["rows"], kept["features"], rejected)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def write_embeddings(out: Path, parts: Parts, names: Sequence[str], about: Mapping[str, Any]) -> int:
    """Write the parts to `out`, whole or not at all, and return the number of embeddings.

    Next to it comes OUT.rejected.csv (name, reason), where an image was rejected. names: by row. about: JSON
    in the file: "about" of an npz, the schema's metadata "mae" of a parquet file.
    Raises ValueError where every image was rejected.
    """
    count = 0
    shape: tuple[int, ...] = ()
    rejected: list[dict[str, str]] = []
    for part in parts:
        count += len(part.rows)
        shape = part.features.shape[1:] if len(part.rows) else shape
        rejected += [{"name": _text(names[row]), "reason": reason} for row, reason in part.rejected]
    if not count:
        first = "{name}: {reason}".format(**rejected[0])
        raise ValueError(f"none of the {len(rejected):,} images can be embedded; {first}")
    beside = out.with_name(f"{out.name}.rejected.csv")
    if rejected:
        write_csv(beside, rejected)
    else:
        beside.unlink(missing_ok=True)
    write = _write_npz if out.suffix == ".npz" else _write_parquet
    with atomic_path(out) as file:
        write(file, parts, [_text(name) for name in names], count, shape, json.dumps(about, sort_keys=True))
    return count


def _text(name: str) -> str:
    """Spell a file's name as valid UTF-8: bytes that are none become \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _write_npz(
    file: Path, parts: Parts, names: Sequence[str], count: int, shape: tuple[int, ...], about: str
) -> None:
    text = np.dtype(f"<U{max(map(len, names))}")
    with zipfile.ZipFile(file, "w") as archive:
        chosen = (np.array([names[row] for row in part.rows.tolist()], dtype=text) for part in parts)
        _write_array(archive, "names", text, (count,), chosen)
        features = (part.features for part in parts)
        _write_array(archive, "features", np.dtype("<f4"), (count, *shape), features)
        _write_array(archive, "about", np.dtype(f"<U{len(about)}"), (), [np.array(about)])


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    chunks: Iterable[np.ndarray],
) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_2_0(file, header)
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype).tobytes())


def _write_parquet(
    file: Path, parts: Parts, names: Sequence[str], count: int, shape: tuple[int, ...], about: str
) -> None:
    del count
    import pyarrow
    from pyarrow import parquet

    vector = pyarrow.float32()
    for size in reversed(shape):
        vector = pyarrow.list_(vector, size)
    schema = pyarrow.schema([("name", pyarrow.string()), ("embedding", vector)], metadata={"mae": about})
    with parquet.ParquetWriter(file, schema, use_dictionary=False) as writer:
        for rows, features in _groups(parts, rows_at_most(shape)):
            values = pyarrow.array(features.ravel())
            for size in reversed(shape):
                values = pyarrow.FixedSizeListArray.from_arrays(values, size)
            chosen = pyarrow.array([names[row] for row in rows.tolist()], pyarrow.string())
            writer.write_table(pyarrow.Table.from_arrays([chosen, values], schema=schema))


def _groups(parts: Parts, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Regroup the rows and features of the parts by `size`: a file does not show where a kill came."""
    rows, features, count = [], [], 0
    for part in parts:
        at = 0
        while at < len(part.rows):
            taken = slice(at, at + size - count)
            rows.append(part.rows[taken])
            features.append(part.features[taken])
            count, at = count + len(rows[-1]), at + len(rows[-1])
            if count == size:
                yield np.concatenate(rows), np.concatenate(features)
                rows, features, count = [], [], 0
    if count:
        yield np.concatenate(rows), np.concatenate(features)
