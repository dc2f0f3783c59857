"""Real processes without the price of importing torch in each: a fork server that has imported it once."""

import multiprocessing
import os
import socket
from multiprocessing.context import ForkServerContext


def context() -> ForkServerContext:
    """A fork server whose children start with torch already imported."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    started = multiprocessing.get_context("forkserver")
    # torch imports the others at the first optimizer step. The server does not see pytest's sys.path.
    started.set_forkserver_preload(["torch", "torch._dynamo", "torch.optim.swa_utils", "torch.distributed"])
    return started


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
