"""A loss or a weight that is not a number: back to the last good state, and never into a checkpoint."""

import logging

import pytest
import torch
from engine import toy

from mae.engine.checkpoint import Checkpoints
from mae.engine.loop import FitOptions, NonFiniteLoss, fit


class Poisoned(toy.Toy):
    """Gives nan once at the step and on these attempts, or poisons a weight instead of the loss."""

    def __init__(self, at, attempts, weight=False):
        super().__init__()
        self.at, self.attempts, self.weight = at, attempts, weight
        self.attempt = self.count = 0

    def forward(self, inputs, wanted):
        loss = super().forward(inputs, wanted)["loss"]
        now = self.count == self.at and self.attempt in self.attempts
        self.count += 1
        return {"loss": loss * float("nan") if now and not self.weight else loss}

    def after_step(self, progress):
        if self.weight and self.count == self.at and self.attempt in self.attempts:
            with torch.no_grad():
                self.body[0].bias[0] = float("inf")


def poisoned(at, attempts, directory, weight=False, **settings):
    model = Poisoned(at, attempts, weight)

    def batches(start, attempt):
        model.attempt, model.count = attempt, start
        return toy.batches(start, attempt)

    fitted = fit(
        model,
        batches,
        torch.optim.AdamW(model.parameters()),
        steps=toy.STEPS,
        learning_rate=lambda step: 0.01,
        options=FitOptions(
            seed=11,
            checkpoints=directory and Checkpoints(directory),
            checkpoint_every=10,
            log_every=4,
            **settings,
        ),
    )
    return model, fitted


@pytest.mark.parametrize("weight", [False, True])
def test_a_non_finite_loss_or_weight_goes_back_to_the_last_checkpoint_with_new_randomness(
    tmp_path, caplog, weight
):
    with caplog.at_level(logging.WARNING):
        _, fitted = poisoned(30, [0, 1], tmp_path, weight)
    assert fitted.step == toy.STEPS
    assert fitted.attempt == 2
    assert f"back to step {20 if weight else 30}" in caplog.text
    for step in Checkpoints(tmp_path).steps():
        for value in Checkpoints(tmp_path).load(step)["method"].values():
            assert value.isfinite().all()


def test_without_a_checkpoint_it_goes_back_to_the_initial_state():
    model, fitted = poisoned(3, [0], None)
    assert (fitted.step, fitted.attempt) == (toy.STEPS, 1)
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_after_the_retries_it_stops_with_a_clear_error_and_a_usable_checkpoint(tmp_path):
    with pytest.raises(
        NonFiniteLoss, match=r"step 28 \(lr 1.000e-02\), after 3 attempts from step 20"
    ) as error:
        poisoned(25, [0, 1, 2], tmp_path)
    assert str(Checkpoints(tmp_path).path(20)) in str(error.value)
    assert "base_lr" in str(error.value)
    assert Checkpoints(tmp_path).latest()[0] == 20
