"""Leases of accelerators: one training for each device, among all working copies of this machine.

A lease is an flock for each device. The guard of the training inherits it, so that it ends with the last
process that uses the device, whatever was killed. Prefect's global concurrency limit of the same name shows
the lease, and lets a person reserve a device (limit 0). The limit alone would not do: a Prefect server that
was killed remembers that a slot is in use, but not by whom, and would never free it.
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

LEASE_S = 60.0  # Prefect frees a slot whose holder has been silent for so long
RESERVED_S = 10.0  # between two requests for a device that a person has reserved
POLL_S = 0.5


class Closed(Exception):
    """The flow is ending: no device is given any more."""


@dataclass(frozen=True)
class DeviceLease:
    """A device in use.

    Attributes:
        environment: variables that let a stage see only its device.
        fds: file descriptors that the guard of the stage inherits.
    """

    environment: Mapping[str, str]
    fds: tuple[int, ...] = ()


class Devices:
    """The accelerators of this machine that trainings may use.

    Args:
        numbers: their numbers; with none, one training at a time sees all of them.
        shown: show in Prefect which are in use, and let people reserve one there.
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
        """Wait for a device, log that, and hold it for the block. Raises Closed after `close`."""
        with contextlib.ExitStack() as held:
            yield self._take(held, log)

    def close(self) -> None:
        """Give no device any more; whoever waits gets Closed."""
        self._closed.set()

    def _take(self, held: contextlib.ExitStack, log: Callable[[str], Any]) -> DeviceLease:
        waiting = False
        while not self._closed.is_set():
            reserved = False
            for device, environment in self._environments.items():
                fd = _lock(f"mae-device-{device}")
                if fd is None:
                    continue
                with contextlib.ExitStack() as own:
                    own.callback(os.close, fd)
                    if self._shown and not _occupy(own, f"{socket.gethostname()}-device-{device}"):
                        reserved = True
                        continue
                    held.push(own.pop_all())
                    return DeviceLease(environment, (fd,))
            if not waiting:
                named = f"({', '.join(self._environments)}) of {socket.gethostname()}"
                log(f"waiting for a device {named}: all are in use, or reserved by a person")
            waiting = True
            self._closed.wait(RESERVED_S if reserved else POLL_S)
        raise Closed


def _occupy(held: contextlib.ExitStack, name: str) -> bool:
    """Use the slot of the limit in Prefect; False where a person has reserved the device."""
    from prefect.concurrency.sync import concurrency

    if _reset_limit(name) == 0:
        return False
    with contextlib.suppress(TimeoutError):
        held.enter_context(concurrency(name, timeout_seconds=RESERVED_S, lease_duration=LEASE_S))
        return True
    return False


def _lock(name: str) -> int | None:
    """Hold the machine-wide lock of this name until the descriptor is closed; None where it is held."""
    path = Path(tempfile.gettempdir()) / f"{name}.lock"
    with contextlib.suppress(FileExistsError):
        path.touch(exist_ok=False)  # a file of another user can be locked, but not opened for writing
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def _reset_limit(name: str) -> int:
    """Create the limit, or free its slot: we have the lock, so its holder is dead. Returns its slots."""
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
