"""Means of the values of the last steps, their speed, and the time left."""

import logging
import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mae import distributed
from mae.progress import clock

_log = logging.getLogger("mae.engine")


class MetricAverager:
    """Means of values since the last `close`. They stay on the device until then, so that no step waits."""

    def __init__(self, step: int, steps: int) -> None:
        self._steps = steps
        self._first_step = step
        self._started = self._opened = time.monotonic()
        self._sums: dict[str, Tensor] = {}
        self._count = self._images = 0

    def add(self, parts: Mapping[str, Tensor], images: int) -> None:
        """Add one step's 0-dim `parts` and this rank's number of images."""
        for name, value in parts.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1
        self._images += images

    def close(self, step: int, lr: float) -> dict[str, float]:
        """Return means over steps and ranks, lr, images_per_second and seconds_left; reset."""
        stacked = torch.stack([value.double() for value in self._sums.values()]) / self._count
        means = distributed.mean(stacked).tolist()  # waits for the device
        now = time.monotonic()
        values = dict(zip(self._sums, means, strict=True))
        values["lr"] = lr
        values["images_per_second"] = self._images * distributed.world_size() / max(now - self._opened, 1e-9)
        done = max(1, step - self._first_step)
        values["seconds_left"] = (self._steps - step) * (now - self._started) / done
        self._opened, self._sums, self._count, self._images = now, {}, 0, 0
        return values


def report(
    step: int, steps: int, values: Mapping[str, float], log: Callable[[int, dict[str, float]], None] | None
) -> None:
    """Write one line through `logging`, and `values` to `log`; on rank 0 only."""
    if not distributed.is_main():
        return
    _log.info(
        "step %d/%d  loss %.4f  lr %.3e  %.0f images/s  %s left",
        step,
        steps,
        values["loss"],
        values["lr"],
        values["images_per_second"],
        clock(values["seconds_left"]),
    )
    if log is not None:
        log(step, {name: value for name, value in values.items() if name != "seconds_left"})


def all_finite(values: Mapping[str, float]) -> bool:
    """Return True if every value is finite."""
    return all(math.isfinite(value) for value in values.values())
