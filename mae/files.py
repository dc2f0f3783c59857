"""The one atomic writer, the sha256 of a file, and JSON and CSV in and out.

A file is written under another name in the same folder, synced, and renamed: readers see the old file or the
new one, never a part. A killed writer leaves its part behind; the next write to the folder removes it.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # of a file system without locks
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)
_SQLITE = "database or disk is full"
_SHORT = re.compile(r"\d+ requested and \d+ written")  # all that numpy says of a full disk
# Ours alone: `.NAME.<8 hex digits>.partial`, and `.NAME.<process>.partial` or `.tmp` of earlier releases.
_PARTS = re.compile(r"\..+\.([0-9a-f]{8}|[0-9]+)\.(partial|tmp)")


class DiskFull(RuntimeError):
    """The disk is full: a file could not be written, and nothing of it is left behind."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give the temporary file to write for `path`, in its folder, which is made where it is missing.

    On a clean exit it is synced and takes the name `path`; after an error it is removed. For libraries that
    want a file name; see `atomic_write` for those that take an open file.
    Raises: DiskFull, naming the file, where the disk or a quota ends.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(path.parent)
    part, lock = _create(path)
    try:
        with full_disk_named(path):
            yield part
            sync(part)
            os.replace(part, path)
            sync(path.parent)
    finally:
        part.unlink(missing_ok=True)
        os.close(lock)


@contextmanager
def full_disk_named(path: str | Path) -> Iterator[None]:
    """Write `path` in the block, in whatever way: DiskFull is raised where the disk or a quota ends."""
    try:
        yield
    except Exception as error:
        reason = _full(error)
        if reason is None:
            raise
        raise DiskFull(
            f"{path}: no space left to write it ({reason}); free some and run again: what is finished is kept"
        ) from error


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a binary file that takes the name `path` once it is complete and on the disk. Raises: DiskFull."""
    with atomic_path(path) as part, part.open("wb", buffering=1 << 20) as file:
        yield file


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data`, whole or not at all."""
    with atomic_write(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as `json_bytes`, whole or not at all; a file with this content is left untouched."""
    path, data = Path(path), json_bytes(value)
    if not path.is_file() or path.read_bytes() != data:
        write_bytes(path, data)


def json_bytes(value: Any) -> bytes:
    """Spell a value as JSON in one way: keys sorted, ASCII, a line for each entry, a final newline."""
    return (json.dumps(value, sort_keys=True, indent=1) + "\n").encode("ascii")


def read_json(path: str | Path) -> Any:
    """Read a JSON file that may be missing or damaged: None then, as for a cache or a note of an old run."""
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return None


def read_csv(path: Path) -> list[dict[str, float]]:
    """Read the rows of a CSV of numbers; an empty cell is absent from its row."""
    with path.open(newline="") as file:
        return [{key: float(cell) for key, cell in row.items() if cell != ""} for row in csv.DictReader(file)]


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the union of their keys as columns, as they appear; an absent value is empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def copy(source: str | Path, target: str | Path) -> None:
    """Copy a file, whole or not at all."""
    with open(source, "rb") as read, atomic_write(target) as write:
        shutil.copyfileobj(read, write, 1 << 20)


def move(source: str | Path, target: str | Path) -> None:
    """Give the file `source` the name `target`, whole or not at all, on another file system too."""
    source, target = Path(source), Path(target)
    try:
        os.replace(source, target)
        sync(target.parent)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy(source, target)
        source.unlink()


def sha256_of(path: str | Path) -> str:
    """Compute the sha256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_stale(folder: str | Path) -> None:
    """Remove what killed writers left in a folder; the parts of writers at work are locked, and stay."""
    with os.scandir(folder) as scan:
        parts = [
            entry.path
            for entry in scan
            if _PARTS.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
        ]
    for part in parts:
        with contextlib.suppress(OSError), open(part, "r+b") as file:  # gone, of another user, or locked
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(part)


def _create(path: Path) -> tuple[Path, int]:
    """Create a file next to `path`, locked while the returned descriptor is open: its writer is alive."""
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        lock = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if part.exists():  # else `remove_stale` of another process came before the lock
                return part, lock
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return part, lock
            os.close(lock)
            part.unlink(missing_ok=True)
            raise
        os.close(lock)


def sync(path: str | Path) -> None:
    """Force a file, or the names in a folder, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that syncs no folders
            raise
    finally:
        os.close(handle)


def disk_trouble(error: BaseException) -> str | None:
    """Put an error that a disk is the reason of into one sentence; None for any other error.

    For what libraries write: they raise the system's error, often without the name of the file.
    """
    for one in _chain(error):  # the first to notice knows the file; what follows from it may not
        if isinstance(one, DiskFull):
            return str(one)
    if isinstance(error, OSError) and error.errno in _REFUSED and error.filename:
        return f"{error.filename}: {error.strerror}; put that right and run again: what is finished is kept"
    reason = _full(error)
    if reason is None:
        return None
    named = [error.filename] if isinstance(error, OSError) and error.filename else []
    places = {Path.cwd(), Path(tempfile.gettempdir()), Path("/dev/shm")}
    full = named or [str(p) for p in sorted(places) if p.exists() and shutil.disk_usage(p).free < 32 << 20]
    where = " and ".join(full) or "a disk or a quota"
    return f"{where}: no space left ({reason}); free some and run again: what is finished is kept"


def _full(error: BaseException) -> str | None:
    """Find the full disk behind an error: libraries wrap it, and safetensors passes only its text on."""
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _FULL:
            return one.strerror or str(one)
        if isinstance(one, OSError) and _SHORT.fullmatch(str(one)):
            return "cut short"
        for text in (*map(os.strerror, _FULL), _SQLITE):
            if text in str(one):
                return text
    return None


def _chain(error: BaseException | None) -> list[BaseException]:
    """List an error and those that it comes from."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__
    return seen
