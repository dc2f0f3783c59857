"""Which accelerator a training may use: one each, shared with the other working copies of this machine.

The truth is an flock per device, which the guard of the training inherits: it ends with the last process that
uses the device, whatever was killed. Prefect's global concurrency limit of the same name shows it, and lets a
person hold a device back (limit 0). It cannot be the truth: a Prefect server that was killed remembers that
a place is taken, but not by whom, and so would keep it for ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LEASE_S = 60.0  # as long as Prefect believes that a holder lives that it does not hear of
HELD_BACK_S = 10.0  # how often it is asked for a device that a person holds back
POLL_S = 0.5


class Closed(Exception):
    """The flow ends: nobody gets a device any more."""


@dataclass(frozen=True)
class DeviceLease:
    """environment: in which a stage sees its device only; fds: file descriptors that its guard inherits."""

    environment: Mapping[str, str]
    fds: tuple[int, ...] = ()


class Devices:
    """The numbers of this machine's accelerators; with none named, one training at a time sees all.

    shown: whether Prefect shows which are in use, and a person can hold one back there.
    """

    def __init__(self, numbers: Sequence[int], *, shown: bool = True) -> None:
        self._shown = shown
        self._environments: dict[str, dict[str, str]] = {
            str(number): {"CUDA_VISIBLE_DEVICES": str(number)} for number in numbers
        } or {"all": {}}
        self._closed = threading.Event()

    def __len__(self) -> int:
        return len(self._environments)

    @contextlib.contextmanager
    def lease(self, log: Callable[[str], Any] = print) -> Iterator[DeviceLease]:
        """Wait for a device, saying so, and hold it. Raises Closed after `close`."""
        with contextlib.ExitStack() as held:
            yield self._take(held, log)

    def close(self) -> None:
        self._closed.set()

    def _take(self, held: contextlib.ExitStack, log: Callable[[str], Any]) -> DeviceLease:
        waiting = False
        while not self._closed.is_set():
            held_back = False
            for device, environment in self._environments.items():
                fd = _lock(f"mae-device-{device}")
                if fd is None:
                    continue
                with contextlib.ExitStack() as own:
                    own.callback(os.close, fd)
                    if self._shown and not _occupy(own, f"{socket.gethostname()}-device-{device}"):
                        held_back = True
                        continue
                    held.push(own.pop_all())
                    return DeviceLease(environment, (fd,))
            if not waiting:
                named = f"({', '.join(self._environments)}) of {socket.gethostname()}"
                log(f"waiting for a device {named}: in use, or held back by a person")
            waiting = True
            self._closed.wait(HELD_BACK_S if held_back else POLL_S)
        raise Closed


def _occupy(held: contextlib.ExitStack, name: str) -> bool:
    """Occupy the limit in Prefect; False where a person holds the device back."""
    from prefect.concurrency.sync import concurrency

    if _reset_limit(name) == 0:
        return False
    with contextlib.suppress(TimeoutError):
        held.enter_context(concurrency(name, timeout_seconds=HELD_BACK_S, lease_duration=LEASE_S))
        return True
    return False


def _lock(name: str) -> int | None:
    """Hold the machine-wide lock of this name until the descriptor is closed; None where another has it."""
    path = Path(tempfile.gettempdir()) / f"{name}.lock"
    with contextlib.suppress(FileExistsError):
        path.touch(exist_ok=False)  # another user's file can be locked, but not opened for writing
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _reset_limit(name: str) -> int:
    """Make the limit, or free it of a holder that is dead: we have the lock. Returns how many it lets in."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=0))
        except ObjectNotFound:
            with contextlib.suppress(ObjectAlreadyExists):
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
        return int(client.read_global_concurrency_limit_by_name(name).limit)
