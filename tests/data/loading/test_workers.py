"""Worker processes outlive a signal to their group, and end with their training."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals of Linux")

# Loads batches slowly, and after the signal to its group asks for one more, as a training does that saves.
PROGRAM = """
import multiprocessing, os, signal, sys, time
from functools import partial
from torch.utils.data import DataLoader, Dataset
from mae.data.loading.workers import obey_parent_only
from mae.stopping import signals_blocked

class Slow(Dataset):
    def __len__(self): return 1000
    def __getitem__(self, item): time.sleep(0.02); return item

caught = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *a: caught.append(a))
context = multiprocessing.get_context(sys.argv[1])
loader = DataLoader(Slow(), num_workers=2, multiprocessing_context=context,
                    worker_init_fn=partial(obey_parent_only, os.getpid()))
with signals_blocked():
    stream = iter(loader)
next(stream)
print("ready", *(worker.pid for worker in stream._workers), flush=True)
while not caught:
    next(stream)
for _ in range(20):
    next(stream)
print("saved", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_group_leaves_the_workers_working_until_the_training_ends(number):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "fork"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        ready, *workers = process.stdout.readline().split()
        assert ready == "ready"
        os.killpg(process.pid, number)
        assert process.stdout.read().strip() == "saved"
        assert process.wait(timeout=120) == 0
        deadline = time.monotonic() + 120
        while any(os.path.exists(f"/proc/{pid}") for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)
    finally:
        process.stdout.close()
        process.kill()
        process.wait()
