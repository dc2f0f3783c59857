"""The loader's worker processes: how they start, and that a signal to their group does not end them.

A pre-emption or a Ctrl-C reaches every process of the group. The training then saves its state at the end of
its step, for which it may still need a batch; a worker that died of the same signal would take that away.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import torch

# The main thread, and those that feed another loader's queues: a worker never touches what they lock.
_HARMLESS = ("MainThread", "QueueFeederThread")
_SIGNALS = {signal.SIGTERM, signal.SIGINT}


@contextmanager
def signals_blocked() -> Iterator[None]:
    """What is started in this block, a fork server too, is born with SIGTERM and SIGINT blocked."""
    resource_tracker.ensure_running()  # started later, it would unblock them again
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def obey_parent_only(parent: int, worker: int) -> None:
    """A `worker_init_fn`, with functools.partial(obey_parent_only, os.getpid()): end on that process's signal
    alone.

    The parent's own terminate() must go on working, or leaving a loader early would hang.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def wait() -> None:
        while signal.sigwaitinfo(_SIGNALS).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def start_method(*parts: Any) -> Any:
    """How worker processes start that are sent those parts: a dataset and what it calls.

    By fork, at no cost, where this process runs no threads of its own and no GPU. Else a fork could copy
    a lock that another thread holds: then workers are forked off a fresh server process, which first
    imports once what they need (5 s of CPU for torch, 13 with torchvision, 20 with timm).
    """
    others = [thread for thread in threading.enumerate() if thread.name not in _HARMLESS]
    if sys.platform == "linux" and not others and not torch.cuda.is_initialized():
        return multiprocessing.get_context("fork")
    context = multiprocessing.get_context("forkserver")
    needs = [name for part in parts for name in (type(part).__module__, *getattr(part, "needs", ()))]
    context.set_forkserver_preload(needs)
    return context
