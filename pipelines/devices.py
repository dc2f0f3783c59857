"""Which accelerator a training may use: one each, shared with the other working copies of this machine."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence

LEASE_S = 60.0  # after which Prefect takes a place back whose holder was killed
ASK_S = 5.0  # for one device, before the next is asked for


class Closed(Exception):
    """The flow ends: nobody gets a device any more."""


class Devices:
    """The numbers of this machine's accelerators; with none named, one training at a time sees all.

    Each is a Prefect global concurrency limit of one place, named after the machine; one that exists already
    is left as it is, so that a person can change it.
    """

    def __init__(self, numbers: Sequence[int]) -> None:
        names = [str(number) for number in numbers]
        self._seen: dict[str, dict[str, str]] = {name: {"CUDA_VISIBLE_DEVICES": name} for name in names}
        self._seen = self._seen or {"all": {}}
        self._free = list(self._seen)
        self._closed = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def one(self) -> Iterator[dict[str, str]]:
        """Wait for a device and hold it; gives the environment in which a stage sees only that one.

        Raises Closed after `close`.
        """
        with contextlib.ExitStack() as held:
            yield self._seen[self._take(held)]

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self, held: contextlib.ExitStack) -> str:
        from prefect.concurrency.sync import concurrency

        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._free or self._closed)
                if self._closed:
                    raise Closed
                device = self._free.pop(0)
            try:
                limit = _limit(f"{socket.gethostname()}-device-{device}")
                held.enter_context(concurrency(limit, timeout_seconds=ASK_S, lease_duration=LEASE_S))
            except TimeoutError:  # another working copy has it
                self._give(device)
                continue
            except BaseException:
                self._give(device)
                raise
            held.callback(self._give, device)
            return device

    def _give(self, device: str) -> None:
        with self._changed:
            self._free.append(device)
            self._changed.notify()


def _limit(name: str) -> str:
    """The limit's name; made where Prefect has none."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            with contextlib.suppress(ObjectAlreadyExists):
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
    return name
