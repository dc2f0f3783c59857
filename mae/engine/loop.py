"""The only training loop: pretraining, probes, fine-tuning and dense tasks all go through `fit`."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mae import distributed, stopping
from mae.engine.checkpoint import Checkpoints
from mae.engine.meters import MetricAverager, all_finite, report
from mae.engine.recovery import NonFiniteLoss, Recovery
from mae.engine.signals import StopNow, StopRequest
from mae.engine.train_state import TrainState

__all__ = ["FitOptions", "Fitted", "Interrupted", "NonFiniteLoss", "fit"]

Batches = Callable[[int, int], Iterator[tuple[Any, ...]]]
Log = Callable[[int, dict[str, float]], None]
Hook = Callable[[int], dict[str, float] | None]
_log = logging.getLogger("mae.engine")


class Interrupted(Exception):
    """SIGTERM or SIGINT ended the training after `step` steps; `path` is the checkpoint to continue from."""

    def __init__(self, step: int, path: Path | None) -> None:
        super().__init__(f"stopped after step {step}; " + (f"saved {path}" if path else "nothing was saved"))
        self.step = step
        self.path = path


@dataclass(frozen=True)
class Fitted:
    """The end of a training. The trained weights are in the module itself; ema holds their moving average."""

    step: int
    attempt: int
    resumed_from: int | None
    values: dict[str, float]
    ema: nn.Module | None


@dataclass(frozen=True)
class FitOptions:
    """The options of a training that do not depend on its model.

    precision: fp32 or bf16. accumulate: batches per optimizer step. ema_decay: of the moving average of the
    weights, where one is kept. checkpoints: the folder that the training saves to every `checkpoint_every`
    steps, and resumes from. log(step, values): called on rank 0, every `log_every` steps and at every
    checkpoint. retries: fruitless returns to the last good state before a loss that is not finite ends the
    training. run_id: the tracking run, and encoder_config: that of an encoder file, for `mae import`;
    both are saved with the checkpoints.
    """

    seed: int
    device: torch.device | str = "cpu"
    accumulate: int = 1
    precision: str = "fp32"
    clip_grad: float | None = None
    ema_decay: float | None = None
    checkpoints: Checkpoints | None = None
    checkpoint_every: int = 1000
    log: Log | None = None
    log_every: int = 50
    retries: int = 2
    compile: bool = False
    run_id: str | None = None
    encoder_config: Mapping[str, Any] | None = None


def fit(
    method: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    learning_rate: Callable[[int], float],
    options: FitOptions,
    hooks: Mapping[int, Hook] | None = None,
) -> Fitted:
    """Train `method` in place for `steps` optimizer steps, from the newest checkpoint on if there is one.

    Every rank ends with the same weights and buffers (distributed.align_buffers).

    method: forward(*inputs) -> {"loss": 0-dim float32, parts ...}; see train_state.py.
    batches(start_step, attempt): iterator of inputs already on the device, `accumulate` of them per step, the
    first image batch first. learning_rate(step): rate of the 0-based step, times a group's `lr_scale`.
    hooks: {period in steps: function of the steps done}, called on every rank; a hook's values are logged. A
    stop does not wait for them: the checkpoint says that they are due, and the resume runs them first.
    Raises Interrupted after SIGTERM or SIGINT (saved first; several ranks agree every `log_every` steps; the
    first step, which may compile, is left at once), NonFiniteLoss after `retries` fruitless returns to the
    last good state, CheckpointError for the checkpoint of another model.
    """
    state = TrainState(
        method,
        optimizer,
        device=torch.device(options.device),
        seed=options.seed,
        accumulate=options.accumulate,
        precision=options.precision,
        clip_grad=options.clip_grad,
        ema_decay=options.ema_decay,
        compile=options.compile,
    )
    recovery = Recovery(
        state,
        options.checkpoints,
        retries=options.retries,
        run_id=options.run_id,
        encoder_config=options.encoder_config,
    )
    periods = _Periods(steps, options.log_every, options.checkpoint_every, dict(hooks or {}))
    return _train(state, batches, recovery, periods, learning_rate, options.log)


@dataclass(frozen=True)
class _Periods:
    steps: int
    log: int
    checkpoint: int
    hooks: dict[int, Hook]


def _train(
    state: TrainState,
    batches: Batches,
    recovery: Recovery,
    every: _Periods,
    learning_rate: Callable[[int], float],
    log: Log | None,
) -> Fitted:
    resumed_from = state.step or None
    if resumed_from is not None:
        _log.info("going on from step %d of %d", resumed_from, every.steps)
    began = state.step
    averager = MetricAverager(state.step, every.steps)
    values: dict[str, float] = {}
    stream = batches(state.step, state.attempt) if state.step < every.steps else iter(())
    with StopRequest() as stop:
        if not state.hooks_ran:
            _run_hooks(every.hooks, state, log)
        while state.step < every.steps:
            lr = learning_rate(state.step)
            try:
                # The first step compiles, for minutes: nothing since the checkpoint is lost by leaving it.
                with stop.raised_at_once(state.step == began):
                    averager.add(*state.advance(stream, lr, every.steps))
            except StopNow:
                _close(stream)
                raise Interrupted(state.step, recovery.path) from None
            if stop.requested:
                stopping.notice()
            step, last = state.step, state.step == every.steps
            looking = last or step % every.log == 0
            stopped = _agreed(stop.requested, looking)
            saving = last or stopped or step % every.checkpoint == 0
            if looking or saving:
                values = averager.close(step, lr)
                if not all_finite(values) or (saving and not state.is_finite()):
                    _close(stream)
                    recovery.roll_back_to_last_checkpoint(lr)
                    stream = batches(state.step, state.attempt)
                    continue
                report(step, every.steps, values, log)
            if last or not stopped:
                _run_hooks(every.hooks, state, log)
            path = recovery.save() if saving else None
            if stopped and not last:
                _close(stream)
                raise Interrupted(step, path)
    _close(stream)
    state.align_buffers()
    return Fitted(state.step, state.attempt, resumed_from, values, state.ema and state.ema.module)


def _agreed(requested: bool, looking: bool) -> bool:
    """Return True if all ranks shall stop now; they ask each other only where they synchronise anyway."""
    if distributed.world_size() == 1:
        return requested
    return looking and distributed.any_true(requested)


def _run_hooks(hooks: Mapping[int, Hook], state: TrainState, log: Log | None) -> None:
    """Run the hooks that are due. They may draw random numbers: each step seeds the process again."""
    for period, hook in hooks.items():
        if state.step % period == 0:
            state.seed_hooks()
            found = hook(state.step)
            state.method.train()  # a hook may have set evaluation mode
            if found and log is not None and distributed.is_main():
                log(state.step, found)
    state.hooks_ran = True


def _close(stream: Iterator[Any]) -> None:
    """End a generator now, so that its loader's worker processes do not outlive it."""
    close = getattr(stream, "close", None)
    if close is not None:
        close()
