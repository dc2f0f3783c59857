"""Files that appear whole or not at all, and errors that say what a full disk means."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFull(RuntimeError):
    """A file could not be written for want of room; nothing of it is left behind."""


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write `path` through: it takes that name only once it is complete and on the disk.

    Raises: DiskFull, naming the file, where the disk or a quota ends.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                f"no room left to write {path} ({error.strerror}); free some and run again: "
                "what is finished is kept"
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def move(source: Path, target: Path) -> None:
    """Give `source` the name `target`, whole, on another file system too."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with source.open("rb") as read, whole(target) as write:
            shutil.copyfileobj(read, write, 1 << 20)
        source.unlink()


def json_bytes(value: Any) -> bytes:
    """One spelling of a value as JSON: keys sorted, ASCII, a line per entry, a final newline."""
    return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode("ascii")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as `json_bytes`, whole; a file that already says so is left untouched."""
    data = json_bytes(value)
    if path.is_file() and path.read_bytes() == data:
        return
    with whole(path) as file:
        file.write(data)
