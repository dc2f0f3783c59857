"""Going on after a kill, and going back after a loss that is not a number."""

import logging
from pathlib import Path
from typing import Any

from torch import Tensor

from mae import distributed
from mae.engine.checkpoint import Checkpoints
from mae.engine.train_state import Trainee

_log = logging.getLogger("mae.engine")


class NonFiniteLoss(RuntimeError):
    """The loss or the weights became inf or nan, also when retried from the last good state."""


class Recovery:
    """The last good state of a trainee: its newest checkpoint, or the state it began with."""

    def __init__(
        self, trainee: Trainee, checkpoints: Checkpoints | None, *, retries: int, run_id: str | None
    ) -> None:
        self._trainee = trainee
        self._checkpoints = checkpoints
        self._retries = retries
        self._run_id = run_id
        self._failures = 0  # since the last good state
        self._beginning = None if self._load_newest() else _on_cpu(trainee.state())

    def save(self) -> Path | None:
        """Write a checkpoint on rank 0 while the others wait; None where no directory was given."""
        if self._checkpoints is None:
            return None
        if distributed.is_main():
            self._checkpoints.save(self._trainee.step, {**self._trainee.state(), "run_id": self._run_id})
        distributed.barrier()  # else a rank that leaves early makes torchrun end the one that writes
        self._failures, self._beginning = 0, None
        return self._checkpoints.path(self._trainee.step)

    def go_back(self, lr: float) -> None:
        """Return to the last good state with new randomness; NonFiniteLoss after `retries` times in a row."""
        trainee = self._trainee
        failed_at, attempt = trainee.step, trainee.attempt
        self._failures += 1
        if self._beginning is not None:
            trainee.load(self._beginning, "the initial state")
        else:
            self._load_newest()
        if self._failures > self._retries:
            at = "nothing was saved before"
            if self._beginning is None and self._checkpoints is not None:
                at = f"the last good state is {self._checkpoints.path(trainee.step)}"
            raise NonFiniteLoss(
                f"loss or weights are not finite at step {failed_at} (lr {lr:.3e}), after {self._failures} "
                f"attempts from step {trainee.step}; {at}. Try a lower base_lr, a longer warm-up, clip_grad, "
                "or precision fp32; look for broken images if it comes at one place of the data"
            )
        trainee.attempt = attempt + 1
        _log.warning(
            "not finite at step %d (lr %.3e): back to step %d with new randomness, attempt %d",
            failed_at,
            lr,
            trainee.step,
            trainee.attempt,
        )

    def _load_newest(self) -> bool:
        """Load what rank 0 finds newest, on every rank; False where there is no checkpoint."""
        if self._checkpoints is None:
            return False
        found = self._checkpoints.latest() if distributed.is_main() else None
        step = distributed.broadcast(found[0] if found else None)
        if step is None:
            return False
        saved: dict[str, Any] = found[1] if found else self._checkpoints.load(step)
        self._trainee.load(saved, self._checkpoints.path(step))
        self._run_id = self._run_id or saved["run_id"]
        return True


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _on_cpu(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(entry) for entry in value)
    return value
