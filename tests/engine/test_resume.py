"""A training that is killed and started again ends as one that was not."""

import os
import random
import signal
import threading
import time

import pytest
import torch
from engine import toy
from engine.processes import context

from mae.engine.checkpoint import CheckpointError, Checkpoints
from mae.engine.loop import FitOptions, Interrupted, fit


def weights_of(directory):
    return torch.load(directory / "final.pt", weights_only=True)


def test_a_training_killed_at_random_steps_ends_with_bit_identical_weights(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    start = context().Process
    unbroken = start(target=toy.to_the_end, args=(whole,))
    unbroken.start()
    draw = random.Random()
    deaths = 0
    for earliest in (0, 15, 30):
        process = start(target=toy.to_the_end, args=(killed,))
        process.start()
        wait_until(lambda at=earliest: max(Checkpoints(killed).steps(), default=-1) >= at, process)
        time.sleep(draw.uniform(0, 0.15))
        process.kill()
        process.join()
        deaths += process.exitcode == -signal.SIGKILL
    assert deaths == 3
    assert max(Checkpoints(killed).steps()) < toy.STEPS
    last = start(target=toy.to_the_end, args=(killed,))
    last.start()
    for process in (last, unbroken):
        process.join(180)
        assert process.exitcode == 0
    torch.testing.assert_close(weights_of(killed), weights_of(whole), rtol=0, atol=0)


def wait_until(true, process, seconds=180):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happened"
        assert process.is_alive(), "the training ended by itself"
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_it_came_in_and_the_resumed_run_equals_the_unbroken(tmp_path, number):
    def interrupt(step):
        if step == 7:
            os.kill(os.getpid(), number)

    unbroken, _ = toy.train(None)
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as stopped:
        toy.train(tmp_path, hooks={1: interrupt})
    assert signal.getsignal(number) is before
    assert stopped.value.step == 8
    assert stopped.value.path == Checkpoints(tmp_path).path(8)
    resumed, fitted = toy.train(tmp_path)
    assert fitted.resumed_from == 8
    torch.testing.assert_close(resumed.state_dict(), unbroken.state_dict(), rtol=0, atol=0)


class Probe:
    """A hook that draws; it is hit at its step, and its values are noted as the loop logs them."""

    def __init__(self) -> None:
        self.found: dict[int, float] = {}
        self.calls: list[int] = []

    def __call__(self, step: int) -> dict[str, float]:
        self.calls.append(step)
        self.hit(step)
        return {"probe": torch.rand(1).item()}

    def hit(self, step: int) -> None:
        """Do nothing; a test replaces it."""

    def log(self, step: int, values: dict[str, float]) -> None:
        if "probe" in values:
            assert self.found.setdefault(step, values["probe"]) == values["probe"]


def train_probed(directory, probe: Probe, **settings):
    return toy.train(directory, hooks={6: probe}, log=probe.log, **settings)


@pytest.fixture(scope="module")
def probed():
    probe = Probe()
    train_probed(None, probe)
    return probe.found


def test_a_stop_at_the_step_of_a_probe_does_not_wait_for_it_and_the_resume_runs_it_first(tmp_path, probed):
    def stopping(step: int) -> float:
        if step == 11:  # signalled before the step whose end the probe is due at
            signal.raise_signal(signal.SIGTERM)
        return toy.warmup_cosine(step, peak=0.03, warmup=5, total=toy.STEPS)

    probe = Probe()
    with pytest.raises(Interrupted) as stopped:
        train_probed(tmp_path, probe, learning_rate=stopping)
    assert stopped.value.step == 12
    assert probe.calls == [6]
    train_probed(tmp_path, probe)
    assert probe.calls == list(range(6, toy.STEPS + 1, 6))
    assert probe.found == probed


def test_sigterm_in_a_probe_keeps_its_value_and_it_is_not_run_again(tmp_path, probed):
    probe = Probe()
    probe.hit = lambda step: signal.raise_signal(signal.SIGTERM) if step == 12 else None
    with pytest.raises(Interrupted):
        train_probed(tmp_path, probe)
    assert probe.found.keys() == {6, 12}
    probe.hit = lambda step: None
    train_probed(tmp_path, probe)
    assert probe.calls == list(range(6, toy.STEPS + 1, 6))
    assert probe.found == probed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_the_first_step_compiles_is_obeyed_at_once_and_loses_nothing(tmp_path, number):
    class Compiling(toy.Toy):
        def forward(self, inputs, wanted):
            threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
            time.sleep(60)

    def fit_compiling():
        model = Compiling()
        options = FitOptions(seed=11, ema_decay=0.9, checkpoints=Checkpoints(tmp_path))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
        fit(
            model,
            toy.batches,
            optimizer,
            steps=toy.STEPS,
            learning_rate=lambda step: 0.1,
            options=options,
        )

    began = time.monotonic()
    with pytest.raises(Interrupted, match="nothing was saved"):
        fit_compiling()
    toy.train(tmp_path, steps=6)
    with pytest.raises(Interrupted, match=str(Checkpoints(tmp_path).path(6))):
        fit_compiling()
    assert time.monotonic() - began < 30
    assert Checkpoints(tmp_path).steps() == [3, 6]


@pytest.mark.parametrize("where", ["in the probe", "before the checkpoint", "after it"])
def test_a_kill_around_a_probe_leaves_each_value_once_and_the_same(tmp_path, probed, monkeypatch, where):
    class Killed(BaseException):
        pass

    def kill(step: int = 12) -> None:
        if step == 12:
            raise Killed

    probe, save = Probe(), Checkpoints.save
    if where == "in the probe":
        probe.hit = kill

    def save_around(store, step, state):
        if where == "before the checkpoint":
            kill(step)
        save(store, step, state)
        if where == "after it":
            kill(step)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_around)
        with pytest.raises(Killed):
            train_probed(tmp_path, probe)
    probe.hit = lambda step: None
    train_probed(tmp_path, probe)
    assert probe.calls.count(12) == (1 if where == "after it" else 2)
    assert probe.found == probed


def test_a_checkpoint_of_the_release_before_runs_the_probe_that_it_may_have_lost(tmp_path, probed):
    probe, store = Probe(), Checkpoints(tmp_path)
    train_probed(tmp_path, probe, steps=12)
    old = store.load(12)
    del old["hooks_ran"]
    torch.save(old, store.path(12))
    again = Probe()
    train_probed(tmp_path, again)
    assert again.calls == list(range(12, toy.STEPS + 1, 6))
    assert {**probe.found, **again.found} == probed


def test_a_second_signal_is_obeyed_at_once(tmp_path):
    def interrupt(step):
        if step in (4, 5):
            signal.raise_signal(signal.SIGINT)
            time.sleep(1.1)
            signal.raise_signal(signal.SIGINT)

    # A shell's background jobs, which tests may be, start with SIGINT ignored.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            toy.train(tmp_path, hooks={1: interrupt})
    finally:
        signal.signal(signal.SIGINT, former)


def test_a_signal_that_a_launcher_forwards_is_not_a_second_one(tmp_path):
    def interrupt(step):
        if step == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        toy.train(tmp_path, hooks={1: interrupt})


def test_a_finished_training_is_not_trained_again(tmp_path):
    first, _ = toy.train(tmp_path)
    again, fitted = toy.train(tmp_path)
    assert fitted.resumed_from == fitted.step == toy.STEPS
    torch.testing.assert_close(again.state_dict(), first.state_dict(), rtol=0, atol=0)


def test_resuming_with_another_seed_or_model_names_the_file_and_the_reason(tmp_path):
    toy.train(tmp_path)
    path = str(Checkpoints(tmp_path).path(toy.STEPS))
    with pytest.raises(CheckpointError, match=f"{path} belongs to seed 11, not 12"):
        toy.train(tmp_path, seed=12)
    with pytest.raises(CheckpointError, match="moving average"):
        toy.train(tmp_path, ema_decay=None)
    other = torch.nn.Module()
    other.body = torch.nn.Sequential(torch.nn.Linear(6, 13))
    with pytest.raises(
        CheckpointError, match=r"body.0.weight has shape \(12, 6\), this model's is \(13, 6\)"
    ):
        fit(
            other,
            toy.batches,
            torch.optim.SGD(other.parameters()),
            steps=2,
            learning_rate=lambda step: 0.1,
            options=FitOptions(seed=11, ema_decay=0.9, checkpoints=Checkpoints(tmp_path)),
        )
