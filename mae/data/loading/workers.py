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
from typing import Any

import torch

from mae.stopping import SIGNALS, THREAD

# The main thread, those that feed another loader's queues, the watcher: a worker never touches their locks.
_HARMLESS = ("MainThread", "QueueFeederThread", THREAD)


def obey_parent_only(parent: int, worker: int) -> None:
    """End this worker on a signal of its parent alone: a `worker_init_fn`, by partial(..., os.getpid()).

    The parent's own terminate() must still work, or leaving a loader early would hang.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def wait() -> None:
        while signal.sigwaitinfo(SIGNALS).si_pid != parent:
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
