"""One loop: what it averages, what it logs, what its random draws depend on."""

import logging
import random

import numpy as np
import pytest
import torch
from engine import toy
from torch import nn

from mae.engine.checkpoint import Checkpoints
from mae.engine.loop import FitOptions, fit
from mae.randomness import seed_process


def test_accumulating_micro_batches_equals_one_large_batch():
    def halves(start, attempt):
        for inputs, wanted in toy.batches(start, attempt):
            yield from zip(inputs.chunk(2), wanted.chunk(2), strict=True)

    whole, _ = toy.train(None, dropout=0.0)
    toy_halves = toy.Toy(0.0)
    fit(
        toy_halves,
        halves,
        torch.optim.AdamW(toy_halves.parameters()),
        steps=toy.STEPS,
        learning_rate=lambda step: toy.warmup_cosine(step, peak=0.03, warmup=5, total=toy.STEPS),
        options=FitOptions(seed=11, accumulate=2),
    )
    torch.testing.assert_close(toy_halves.state_dict(), whole.state_dict())


def test_a_hook_that_draws_random_numbers_and_switches_modes_changes_nothing():
    def hook(step):
        torch.rand(3), np.random.rand(), random.random()
        model.eval()
        return {"probe": float(step)}

    logged = {}
    plain, _ = toy.train(None)
    model = toy.Toy()
    fit(
        model,
        toy.batches,
        torch.optim.AdamW(model.parameters(), lr=1.0),
        steps=toy.STEPS,
        learning_rate=lambda step: toy.warmup_cosine(step, peak=0.03, warmup=5, total=toy.STEPS),
        hooks={7: hook},
        options=FitOptions(
            seed=11, log=lambda step, values: logged.update({step: values}) if "probe" in values else None
        ),
    )
    torch.testing.assert_close(model.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert logged == {step: {"probe": float(step)} for step in range(7, toy.STEPS + 1, 7)}


def test_the_logged_loss_is_the_mean_since_the_last_log_point(caplog):
    fine, coarse = {}, {}
    toy.train(None, log=lambda step, values: fine.update({step: values}), log_every=1)
    with caplog.at_level(logging.INFO, logger="mae.engine"):
        toy.train(None, log=lambda step, values: coarse.update({step: values}), log_every=20)
    assert sorted(coarse) == sorted({*range(20, 61, 20), *range(3, 61, 3)})
    since = [fine[step]["loss"] for step in (19, 20)]
    assert coarse[20]["loss"] == pytest.approx(np.mean(since), rel=1e-12)
    assert coarse[20]["lr"] == pytest.approx(0.03 * (1 + np.cos(np.pi * 14 / 55)) / 2)
    assert "step 20/60  loss " in caplog.text
    assert "images/s" in caplog.text


def test_each_step_is_seeded_by_seed_step_attempt_and_rank():
    def draws(*key):
        seed_process(*key)
        return torch.rand(1).item(), np.random.rand(), random.random()

    assert draws(1, 2, 0, 0, 0) == draws(1, 2, 0, 0, 0)
    keys = [(1, 2, 0, 0, 0), (1, 3, 0, 0, 0), (1, 2, 1, 0, 0), (1, 2, 0, 1, 0), (2, 2, 0, 0, 0), (1, 2)]
    for drawn in zip(*(draws(*key) for key in keys), strict=True):
        assert len(set(drawn)) == len(keys)
    with pytest.raises(ValueError, match="non-negative"):
        seed_process(-1)


class Drawing(nn.Module):
    """Notes what it draws, and what the batches drew before it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.drawn = []

    def forward(self, images):
        self.drawn.append((images.item(), torch.rand(1).item(), np.random.rand(), random.random()))
        return {"loss": self.weight.sum()}


def test_method_and_batches_draw_again_in_every_step_and_the_same_after_a_resume(tmp_path):
    def draws(steps, directory=None):
        def batches(start, attempt):
            while True:
                yield (torch.rand(1),)

        model = Drawing()
        optimizer = torch.optim.SGD(model.parameters())
        checkpoints = directory and Checkpoints(directory)
        fit(
            model,
            batches,
            optimizer,
            steps=steps,
            learning_rate=lambda step: 0.1,
            options=FitOptions(seed=4, accumulate=2, checkpoints=checkpoints),
        )
        return model.drawn

    unbroken = draws(6)
    for kind in zip(*unbroken, strict=True):
        assert len(set(kind)) == 12
    assert draws(2, tmp_path) + draws(6, tmp_path) == unbroken


def test_batches_that_end_early_are_an_error_that_says_where():
    model = toy.Toy()
    with pytest.raises(RuntimeError, match="ended at step 30 of 60"):
        fit(
            model,
            lambda start, attempt: toy.batches(start, attempt, steps=30),
            torch.optim.SGD(model.parameters()),
            steps=60,
            learning_rate=lambda step: 0.1,
            options=FitOptions(seed=1),
        )


def test_clipping_bounds_the_gradient_and_logs_its_norm():
    logged = {}
    toy.train(None, clip_grad=1e-3, log_every=1, log=lambda step, values: logged.update({step: values}))
    assert all(values["grad_norm"] > 1e-3 for values in logged.values())


def test_the_moving_average_follows_the_weights():
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, inputs):
            return {"loss": self.weight.sum() * inputs.mean()}

    model = Counter()
    ones = torch.ones(2, 1, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters())
    fitted = fit(
        model,
        lambda start, attempt: ((ones,) for _ in range(start, 3)),
        optimizer,
        steps=3,
        learning_rate=lambda step: 1.0,
        options=FitOptions(seed=0, ema_decay=0.9),
    )
    # -1, then .9 * -1 + .1 * -2 = -1.1, then .9 * -1.1 + .1 * -3
    assert fitted.ema.weight.item() == pytest.approx(-1.29)


def test_bf16_computes_in_bf16_and_refuses_a_bf16_loss():
    class Half(nn.Module):
        def __init__(self, widen):
            super().__init__()
            self.layer, self.widen = nn.Linear(4, 2), widen

        def forward(self, inputs):
            loss = self.layer(inputs).mean()
            return {"loss": loss.float() if self.widen else loss}

    def run(model):
        fit(
            model,
            lambda start, attempt: ((torch.ones(2, 4),) for _ in range(2)),
            torch.optim.SGD(model.parameters()),
            steps=2,
            learning_rate=lambda step: 0.1,
            options=FitOptions(seed=0, precision="bf16"),
        )

    run(Half(True))
    with pytest.raises(TypeError, match="float32"):
        run(Half(False))


def test_the_method_hears_how_far_the_training_is():
    model, _ = toy.train(None)
    assert model.progress == 1.0


@pytest.mark.parametrize("wrong", [{"precision": "fp16"}, {"accumulate": 0}, {"seed": -3}])
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=r"choose|at least"):
        toy.train(None, **wrong)
