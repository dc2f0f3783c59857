"""The state of a training: module, optimizer, moving average. One step changes it, a checkpoint holds it."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mae import distributed
from mae.engine.checkpoint import VERSION, CheckpointError, load_module, load_optimizer
from mae.randomness import seed_process

PRECISIONS = ("fp32", "bf16")


class TrainState:
    """A module under training at `step` (steps done) of `attempt` (0, and 1 more after each non-finite loss).

    method: forward(*inputs) -> {"loss": 0-dim, other 0-dim parts}; its after_step(progress), if it has one,
    follows each optimizer step. It keeps its identity: replication and compilation wrap it.
    """

    def __init__(
        self,
        method: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        device: torch.device,
        seed: int,
        accumulate: int = 1,
        precision: str = "fp32",
        clip_grad: float | None = None,
        ema_decay: float | None = None,
        compile: bool = False,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
        if accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, got {accumulate}")
        self.method = method.to(device).train()
        self.optimizer = optimizer
        self.device = device
        self.seed = seed
        self.step = 0
        self.attempt = 0
        self.hooks_ran = True  # those that are due at `step`
        self.ema = None
        if ema_decay is not None:
            self.ema = AveragedModel(method, multi_avg_fn=get_ema_multi_avg_fn(ema_decay))
        self._accumulate = accumulate
        self._autocast = precision == "bf16"
        self._clip_grad = clip_grad
        self._replica = distributed.replicate(method, device)
        self._forward = torch.compile(self._replica) if compile else self._replica

    def advance(
        self, stream: Iterator[tuple[Any, ...]], lr: float, steps: int
    ) -> tuple[dict[str, Tensor], int]:
        """Take one optimizer step at rate `lr`; return its parts on the device and this rank's images.

        Waits for the device nowhere. Random draws, in `stream` too, depend on (seed, step, attempt, rank).
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        sums: dict[str, Tensor] = {}
        images = 0
        for micro in range(self._accumulate):
            self._seed(2 * micro)
            inputs = self._next(stream, steps)
            self._seed(2 * micro + 1)  # again: a stream draws more or less by its number of workers
            images += len(inputs[0])
            parts = self._backward(inputs, sync=micro == self._accumulate - 1)
            for name, value in parts.items():
                sums[name] = sums[name] + value if name in sums else value
        means = {name: value / self._accumulate for name, value in sums.items()}
        if self._clip_grad is not None:
            means["grad_norm"] = nn.utils.clip_grad_norm_(self.method.parameters(), self._clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.hooks_ran = False
        after_step = getattr(self.method, "after_step", None)
        if after_step is not None:
            after_step(self.step / steps)
        if self.ema is not None:
            self.ema.update_parameters(self.method)
        return means, images

    def seed_hooks(self) -> None:
        """Seed what hooks draw at this step, so that a resume that runs them finds the same values."""
        self._seed(2 * self._accumulate)

    def _seed(self, draw: int) -> None:
        seed_process(self.seed, self.step, self.attempt, distributed.rank(), draw)

    def _next(self, stream: Iterator[tuple[Any, ...]], steps: int) -> tuple[Any, ...]:
        try:
            return next(stream)
        except StopIteration:
            raise RuntimeError(
                f"the batches ended at step {self.step} of {steps}: their iterator must give "
                f"{self._accumulate} micro-batch(es) for every step"
            ) from None

    def _backward(self, inputs: tuple[Any, ...], *, sync: bool) -> dict[str, Tensor]:
        if sync:
            return self._forward_backward(inputs)
        with distributed.without_sync(self._replica):
            return self._forward_backward(inputs)

    def _forward_backward(self, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            outputs = self._forward(*inputs)
        loss = outputs["loss"]
        if loss.dtype in (torch.bfloat16, torch.float16):
            raise TypeError(
                f"{type(self.method).__name__} returned a {loss.dtype} loss: compute it in float32 (.float())"
            )
        (loss / self._accumulate).backward()
        return {name: value.detach() for name, value in outputs.items() if value.ndim == 0}

    def state(self) -> dict[str, Any]:
        """Return all that a resume needs, as plain types and tensors."""
        return {
            "version": VERSION,
            "step": self.step,
            "attempt": self.attempt,
            "hooks_ran": self.hooks_ran,
            "seed": self.seed,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }

    def load(self, state: Mapping[str, Any], where: object) -> None:
        """Load `state`; raise CheckpointError naming its source `where` and the part that does not fit."""
        if state["seed"] != self.seed:
            raise CheckpointError(
                f"{where} belongs to seed {state['seed']}, not {self.seed}: use another directory"
            )
        if (state["ema"] is None) != (self.ema is None):
            raise CheckpointError(
                f"{where} was written with{'out' if self.ema else ''} a moving average (ema): "
                "use another directory"
            )
        load_module(self.method, state["method"], where)
        load_optimizer(self.optimizer, state["optimizer"], where)
        if self.ema is not None:
            load_module(self.ema, state["ema"], where)
        self.step, self.attempt = state["step"], state["attempt"]
        # Releases before this entry saved first and ran the hooks then: perhaps they did not come to it.
        self.hooks_ran = state.get("hooks_ran", False)

    def align_buffers(self) -> None:
        """Copy rank 0's buffers to every rank, so that all of them evaluate the same model."""
        for module in filter(None, (self.method, self.ema)):
            distributed.align_buffers(module)

    def is_finite(self) -> bool:
        """Return True if all weights and optimizer states are finite, on all ranks. Waits for the device."""
        state = self.state()
        entries = [value for entry in state["optimizer"]["state"].values() for value in entry.values()]
        entries += [*state["method"].values(), *(state["ema"] or {}).values()]
        real = [value for value in entries if isinstance(value, Tensor) and value.is_floating_point()]
        flags = [value.isfinite().all().to(self.device) for value in real]
        return not distributed.any_true(not bool(torch.stack(flags).all()) if flags else False)
