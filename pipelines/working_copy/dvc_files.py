"""DVC's own files in a working copy, kept usable: it writes dvc.lock and its rwlock in place.

A kill, or the Ctrl-C with which the guard ends a stage, may come in the middle of that, and then no command
of DVC works until somebody repairs the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mae.files import write_bytes

LOCK = "dvc.lock"
COPY = "work/dvc.lock.whole"
RWLOCK = ".dvc/tmp/rwlock"


@contextmanager
def opened(root: Path) -> Iterator[Any]:
    """The dvc.repo.Repo at `root`, while no other process of DVC writes what it reads."""
    from dvc.repo import Repo, lock_repo

    # What `dvc --wait-for-lock` does.
    with Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):
        yield repo


def secure(root: Path) -> str:
    """Copy dvc.lock where it is whole; else put the latest copy back. Returns what there is to say of it.

    What the copy does not know yet comes out of DVC's run cache: it is not computed again.
    """
    lock, copy, rwlock = (Path(root) / name for name in (LOCK, COPY, RWLOCK))
    said = []
    with opened(root):
        if _is_nobodys(rwlock):
            rwlock.unlink()
            said.append(f"{RWLOCK} was left by a process that was killed and is removed")
        if not lock.exists():
            copy.unlink(missing_ok=True)
        elif _is_whole(lock):
            write_bytes(copy, lock.read_bytes())
        elif copy.exists():
            write_bytes(lock, copy.read_bytes())
            said.append(f"{LOCK} was half written; it is again as it was before")
        else:
            lock.unlink()
            said.append(f"{LOCK} was half written and is removed: DVC's run cache knows what was computed")
    return "; ".join(said)


def _is_whole(lock: Path) -> bool:
    from dvc.exceptions import DvcException
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils import strictyaml

    try:
        strictyaml.load(str(lock), COMPILED_LOCKFILE_SCHEMA)
    except DvcException:
        return False
    return True


def _is_nobodys(rwlock: Path) -> bool:
    """Whether it is cut short, or none of the processes that it names is DVC.

    DVC itself looks whether a process of that number lives: in the next container, another program.
    """
    try:
        held = json.loads(rwlock.read_text())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    readers = (one for several in held.get("read", {}).values() for one in several)
    holders = [*held.get("write", {}).values(), *readers]
    return bool(holders) and not any(_is_dvc(holder["pid"]) for holder in holders)


def _is_dvc(pid: int) -> bool:
    import psutil

    try:
        return any("dvc" in word for word in psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's: DVC's own rule holds
        return True
