"""Repair of DVC's own files in a working copy, which DVC writes in place: dvc.lock and its rwlock.

A kill, or the Ctrl-C with which the guard ends a stage, may cut such a file short. Then no command of DVC
works until the file is repaired.
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
    """Open the dvc.repo.Repo at `root`, while no other process of DVC writes the files that it reads."""
    from dvc.repo import Repo, lock_repo

    # As `dvc --wait-for-lock` does.
    with Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):
        yield repo


def secure(root: Path) -> str:
    """Copy dvc.lock where it is whole, else restore the copy. Returns a message, "" without a repair.

    DVC's run cache restores results that the copy does not know: they are not computed again.
    """
    lock, copy, rwlock = (Path(root) / name for name in (LOCK, COPY, RWLOCK))
    repairs = []
    with opened(root):
        if _is_nobodys(rwlock):
            rwlock.unlink()
            repairs.append(f"removed {RWLOCK}, which a killed process left")
        if not lock.exists():
            copy.unlink(missing_ok=True)
        elif _is_whole(lock):
            write_bytes(copy, lock.read_bytes())
        elif copy.exists():
            write_bytes(lock, copy.read_bytes())
            repairs.append(f"{LOCK} was half written: restored its last copy")
        else:
            lock.unlink()
            repairs.append(f"{LOCK} was half written: removed it; DVC's run cache knows the results")
    return "; ".join(repairs)


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
    """Return whether the file is cut short, or no process that it names is DVC.

    DVC itself only asks if a process of that number lives: in the next container, it is another program.
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
    except psutil.AccessDenied:  # of another user: keep to DVC's own rule
        return True
