"""The loader's worker processes: their start method, and their shield from signals to the process group.

A pre-emption or a Ctrl-C reaches every process of the group. The training then saves its state at the end of
its step, for which it may still need a batch; a worker that died of the same signal could not deliver it.
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

# The main thread, and those that feed another loader's queues: a worker never touches their locks.
_HARMLESS = ("MainThread", "QueueFeederThread")
_SIGNALS = {signal.SIGTERM, signal.SIGINT}


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Start processes in this block, a fork server too, with SIGTERM and SIGINT blocked."""
    resource_tracker.ensure_running()  # started later, it would unblock them again
    former = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def obey_parent_only(parent: int, worker: int) -> None:
    """End this worker on a signal of its parent alone: a `worker_init_fn`, by partial(..., os.getpid()).

    The parent's own terminate() must still work, or leaving a loader early would hang.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)

    def wait() -> None:
        while signal.sigwaitinfo(_SIGNALS).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def start_method(*parts: Any) -> Any:
    """Choose the start method of worker processes that receive those parts: a dataset and its callables.

    Fork, at no cost, where this process runs no threads of its own and no GPU. Otherwise a fork could copy a
    lock that another thread holds: then workers are forked off a fresh server process, which imports their
    modules once (5 s of CPU for torch, 13 with torchvision, 20 with timm).
    """
    others = [thread for thread in threading.enumerate() if thread.name not in _HARMLESS]
    if sys.platform == "linux" and not others and not torch.cuda.is_initialized():
        return multiprocessing.get_context("fork")
    context = multiprocessing.get_context("forkserver")
    needs = [name for part in parts for name in (type(part).__module__, *getattr(part, "needs", ()))]
    context.set_forkserver_preload(needs)
    return context
