"""Errors of libraries that a person can mend are explained in one sentence."""

import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader

from mae.stages.context.outcome import explanation


class KillsItsWorker(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_loader_process_that_was_killed_is_explained_with_the_remedy():
    with pytest.raises(RuntimeError) as error:
        list(DataLoader(KillsItsWorker(), num_workers=1, multiprocessing_context="forkserver"))
    said = explanation(error.value)
    assert "runtime.workers" in said
    assert "memory" in said
    assert "\n" not in said


def test_other_errors_keep_their_own_words():
    assert explanation(RuntimeError("CUDA error: out of memory")) is None
