"""Learning rates, held against the formulas of the papers and against timm."""

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from mae.engine.schedule import scaled_lr, warmup_cosine, warmup_linear, warmup_multistep


def test_the_learning_rate_at_given_steps():
    rate = {"peak": 2.4e-3, "floor": 1e-5, "warmup": 40, "total": 800}
    wanted = {0: 0.0, 1: 6e-5, 20: 1.2e-3, 40: 2.4e-3, 420: (2.4e-3 + 1e-5) / 2, 800: 1e-5, 900: 1e-5}
    for step, value in wanted.items():
        assert warmup_cosine(step, **rate) == pytest.approx(value, rel=1e-12), step


def test_the_schedule_equals_timms_at_every_step():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.02)
    total, warmup = 37, 9
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=total - warmup,
        warmup_t=warmup,
        warmup_lr_init=0,
        lr_min=1e-4,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    for step in range(total):
        scheduler.step_update(step)
        ours = warmup_cosine(step, peak=0.02, floor=1e-4, warmup=warmup, total=total)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12), step


def test_a_warm_up_as_long_as_the_training_is_refused():
    with pytest.raises(ValueError, match="warm-up"):
        warmup_cosine(0, peak=1, warmup=10, total=10)


def test_the_rate_scales_with_the_global_batch():
    assert scaled_lr(1.5e-4, 4096) == pytest.approx(2.4e-3)
    assert scaled_lr(0.1, 16384) == pytest.approx(6.4)


def test_vitdets_schedule_warms_up_and_falls_tenfold_at_each_milestone():
    rate = {"peak": 1e-4, "milestones": (163_889, 177_546), "warmup": 250}
    wanted = {0: 0.0, 125: 5e-5, 250: 1e-4, 163_888: 1e-4, 163_889: 1e-5, 177_546: 1e-6, 184_374: 1e-6}
    for step, value in wanted.items():
        assert warmup_multistep(step, **rate) == pytest.approx(value, rel=1e-12), step


def test_upernets_schedule_warms_up_and_falls_linearly_to_zero():
    rate = {"peak": 1e-4, "warmup": 1500, "total": 160_000}
    for step, value in {0: 0.0, 750: 5e-5, 1500: 1e-4, 80_750: 5e-5, 160_000: 0.0, 170_000: 0.0}.items():
        assert warmup_linear(step, **rate) == pytest.approx(value, rel=1e-12), step
    with pytest.raises(ValueError, match="warm-up"):
        warmup_linear(0, peak=1, warmup=10, total=10)
