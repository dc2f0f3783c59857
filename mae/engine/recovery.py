"""Recovery: resume after a kill, roll back after a loss that is not finite."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mae import distributed
from mae.engine.checkpoint import Checkpoints
from mae.engine.train_state import TrainState

_log = logging.getLogger("mae.engine")


class NonFiniteLoss(RuntimeError):
    """The loss or the weights became inf or nan, also when retried from the last good state."""


class Recovery:
    """The last good state of a training: its newest checkpoint, or the state it began with."""

    def __init__(
        self,
        state: TrainState,
        checkpoints: Checkpoints | None,
        *,
        retries: int,
        run_id: str | None,
        encoder_config: Mapping[str, Any] | None = None,
    ) -> None:
        self._state = state
        self._checkpoints = checkpoints
        self._retries = retries
        self._run_id = run_id
        self._about = {} if encoder_config is None else {"encoder_config": dict(encoder_config)}
        self._failures = 0  # since the last good state
        self._beginning = None if self._load_newest() else _on_cpu(state.state())

    @property
    def path(self) -> Path | None:
        """The newest checkpoint; None where nothing is saved."""
        saved = self._beginning is None and self._checkpoints is not None
        return self._checkpoints.path(self._state.step) if saved and self._checkpoints else None

    def save(self) -> Path | None:
        """Write a checkpoint on rank 0 while the others wait; return None without a directory."""
        if self._checkpoints is None:
            return None
        if distributed.is_main():
            saved = {**self._state.state(), "run_id": self._run_id, **self._about}
            self._checkpoints.save(self._state.step, saved)
        distributed.barrier()  # else a rank that leaves early makes torchrun end the one that writes
        self._failures, self._beginning = 0, None
        return self._checkpoints.path(self._state.step)

    def roll_back_to_last_checkpoint(self, lr: float) -> None:
        """Return to the last good state with new randomness; NonFiniteLoss after `retries` times in a row."""
        state = self._state
        failed_at, attempt = state.step, state.attempt
        self._failures += 1
        if self._beginning is not None:
            state.load(self._beginning, "the initial state")
        else:
            self._load_newest()
        if self._failures > self._retries:
            at = "nothing was saved before"
            if self._beginning is None and self._checkpoints is not None:
                at = f"the last good state is {self._checkpoints.path(state.step)}"
            raise NonFiniteLoss(
                f"loss or weights are not finite at step {failed_at} (lr {lr:.3e}), after {self._failures} "
                f"attempts from step {state.step}; {at}. Try a lower base_lr, a longer warm-up, clip_grad, "
                "or precision fp32; look for broken images if it always happens at the same step"
            )
        state.attempt = attempt + 1
        _log.warning(
            "not finite at step %d (lr %.3e): back to step %d with new randomness, attempt %d",
            failed_at,
            lr,
            state.step,
            state.attempt,
        )

    def _load_newest(self) -> bool:
        """Load rank 0's newest checkpoint on every rank; return False without any."""
        if self._checkpoints is None:
            return False
        found = self._checkpoints.latest() if distributed.is_main() else None
        step = distributed.broadcast(found[0] if found else None)
        if step is None:
            return False
        saved: dict[str, Any] = found[1] if found else self._checkpoints.load(step)
        self._state.load(saved, self._checkpoints.path(step))
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
