"""Several ranks train as one process does; one process needs no group."""

import argparse
import os
import subprocess
import sys
import tempfile

import pytest
import torch
from engine import toy
from engine.processes import run_ranks

from mae import __main__ as command
from mae import distributed


def found_by_ranks(directory, stop_at=None, world=2):
    directory.mkdir(exist_ok=True)
    run_ranks(toy.as_rank, directory, stop_at, world=world)
    return [torch.load(directory / f"rank{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.fixture(scope="module")
def interrupted_ranks(tmp_path_factory):
    """Two gloo ranks, one of them asked to stop in step 20; then the same two again."""
    directory = tmp_path_factory.mktemp("ranks") / "run"
    return found_by_ranks(directory, stop_at=20), found_by_ranks(directory)


def test_two_ranks_give_the_loss_curve_and_weights_of_one_process_at_the_same_global_batch(interrupted_ranks):
    curve = {}
    alone, _ = toy.train(
        None, dropout=0.0, accumulate=2, log=lambda step, values: curve.update({step: values["loss"]})
    )
    before, after = interrupted_ranks
    together = before[0]["curve"] | after[0]["curve"]
    for step in set(curve) & set(together) - {24}:  # 24 is the mean of two steps here, of one there
        assert together[step] == pytest.approx(curve[step], rel=1e-9), step
    assert len(set(curve) & set(together)) > 30
    for rank in after:
        torch.testing.assert_close(rank["toy"], alone.state_dict(), rtol=1e-9, atol=1e-12)


def test_ranks_agree_to_stop_at_one_step_and_go_on_from_it_together(interrupted_ranks):
    before, after = interrupted_ranks
    assert [rank["interrupted"] for rank in before] == [22, 22]
    assert [rank["resumed"] for rank in after] == [22, 22]
    assert [rank["interrupted"] for rank in after] == [None, None]
    torch.testing.assert_close(after[0]["toy"], after[1]["toy"], rtol=0, atol=0)


def test_ranks_end_a_training_with_the_same_running_statistics(interrupted_ranks):
    first, second = (rank["normed"] for rank in interrupted_ranks[1])
    assert first["model"]["body.0.num_batches_tracked"] == 5
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_only_rank_0_logs(interrupted_ranks):
    before, after = interrupted_ranks
    assert before[1]["curve"] == after[1]["curve"] == {}


def test_gather_takes_uneven_rows_in_rank_order_and_the_rest_agrees(interrupted_ranks):
    for rank in interrupted_ranks[1]:
        assert rank["gathered"].tolist() == [10, 11]
        assert rank["mean"].item() == 0.5
        assert rank["any"] is True
        assert rank["said"] == "rank 0"


def test_objects_come_in_rank_order_and_rows_once(interrupted_ranks):
    for rank in interrupted_ranks[1]:
        assert rank["objects"] == [{"rank": 1, "text": "x" * 50}]  # rank 0 has none
        assert list(rank["rows"].items()) == [(4, "from 1"), (5, "from 0"), (9, "from 0")]


def test_evaluation_over_ranks_counts_every_sample_once(interrupted_ranks):
    correct = [row % 3 != 0 for row in range(11)]
    whole = {"top1": sum(correct) / 11, "count": 11, "correct": correct, "skipped": 1}
    for rank in interrupted_ranks[1]:
        assert rank["evaluated"] == whole


def test_one_process_needs_no_group():
    assert distributed.init("cpu") == torch.device("cpu")
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (0, 1, 0)
    assert distributed.is_main()
    rows = torch.arange(6).view(3, 2)
    assert distributed.gather(rows) is rows
    assert distributed.gather_with_gradient(rows) is rows
    assert distributed.gather_objects(["a", None]) == ["a", None]
    assert list(distributed.gather_rows({3: "c", 1: "a"}).items()) == [(1, "a"), (3, "c")]
    assert distributed.mean(torch.tensor(2.0)).item() == 2
    assert distributed.any_true(False) is False
    assert distributed.broadcast("x") == "x"
    module = torch.nn.Linear(1, 1)
    assert distributed.replicate(module, torch.device("cpu")) is module
    distributed.align_buffers(torch.nn.BatchNorm1d(1))
    distributed.barrier()
    distributed.shutdown()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_said_plainly():
    with pytest.raises(ValueError, match="no GPU"):
        distributed.init("cuda")


# Run by torchrun in place of the package: each rank notes the addresses at which it and torchrun listen.
RANK = """
import pathlib, psutil, sys
from mae import distributed
distributed.init("cpu")
rank, process = distributed.rank(), psutil.Process()
links = [link for one in (process, process.parent()) for link in one.net_connections("inet")]
found = [link.laddr.ip for link in links if link.status == psutil.CONN_LISTEN]
assert distributed.gather_objects([rank]) == [0, 1]
pathlib.Path(f"{rank}.txt").write_text(" ".join(found))
distributed.shutdown()
"""


@pytest.mark.slow
def test_the_processes_of_one_machine_listen_on_loopback_alone(tmp_path, project, monkeypatch):
    (tmp_path / "rank.py").write_text(RANK)
    called = []
    monkeypatch.setattr(os, "execve", lambda program, arguments, variables: called.append(variables))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("PET_NPROC_PER_NODE", "2")
    monkeypatch.setenv("PYTHONPATH", str(project))
    command._enter_torchrun(argparse.Namespace(command="pretrain", params="params.yaml"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "rank.py"]
    done = subprocess.run(torchrun, cwd=tmp_path, env=called[0], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listening = " ".join((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)).split()
    assert listening
    assert set(listening) <= {"127.0.0.1"}
