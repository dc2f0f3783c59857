"""Real processes without the price of importing torch in each: a fork server that has imported it once."""

import multiprocessing
import os
import signal
import socket
import time
from multiprocessing.context import ForkServerContext

PRELOADED = ["torch", "torch._dynamo", "torch.optim.swa_utils", "torch.distributed"]


def context() -> ForkServerContext:
    """A fork server whose children start with torch already imported."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started = multiprocessing.get_context("forkserver")
    # torch imports the others at the first optimizer step. The server does not see pytest's sys.path.
    started.set_forkserver_preload(PRELOADED)
    return started


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(target, *arguments, world=2, seconds=180) -> None:
    """`target(*arguments)` in `world` processes that have torchrun's variables, until all of them ended well.

    One that fails ends the others, which would wait for it, and its traceback is in the error raised here.
    """
    from torch.multiprocessing import start_processes

    context()
    place = (world, free_port())
    ranks = start_processes(
        _as_rank, (target, arguments, *place), world, join=False, daemon=True, start_method="forkserver"
    )
    deadline = time.monotonic() + seconds
    while not ranks.join(timeout=1.0):
        if time.monotonic() > deadline:
            for process in ranks.processes:
                process.kill()
            raise TimeoutError(f"{target.__name__}: no end on {world} ranks within {seconds} s")


def _as_rank(rank, target, arguments, world, port) -> None:
    import torch

    # The fork server may be one that a loader started with these blocked (mae/data/loading/workers.py).
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"}
    target(*arguments)
