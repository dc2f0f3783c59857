"""Closed-form weights, images and noise: reference values without any download or random generator.

`reference.json` holds what the original programs gave for these inputs (MAE: the authors' release;
CAE: the authors' release). Rebuild the inputs here, load the weights under their original names,
and compare in float64: relative error 1e-10 for losses, 1e-8 for gradients.
"""

import math
import zlib

import numpy as np
import torch
from torch import Tensor


def wave(count: int, key: str, low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """`count` scattered values in [low, high), float64, fixed by `key`."""
    phase = (zlib.crc32(key.encode()) % 9973) / 9973.0
    x = np.sin(np.arange(1, count + 1, dtype=np.float64) * 12.9898 + phase * 78.233) * 43758.5453
    return low + (high - low) * (x - np.floor(x))


def fill(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A float64 tensor for each original parameter name and shape, scaled like a trained ViT."""
    state = {}
    for name, shape in shapes.items():
        count = math.prod(shape)
        if "gamma" in name:
            values = 0.1 * (1 + 0.1 * wave(count, name))
        elif name.endswith(".weight") and len(shape) >= 2:
            values = math.sqrt(6 / (math.prod(shape[1:]) + shape[0])) * wave(count, name)
        elif name.endswith(".weight"):
            values = 1 + 0.1 * wave(count, name)
        elif "token" in name:
            values = 0.04 * wave(count, name)
        else:
            values = 0.02 * wave(count, name)
        state[name] = torch.from_numpy(values.reshape(shape)).clone()
    return state


def images(n: int, size: int) -> Tensor:
    """(n, 3, size, size) float64."""
    return torch.from_numpy(wave(n * 3 * size**2, "imgs", -2, 2.4).reshape(n, 3, size, size))


def noise(n: int, length: int) -> Tensor:
    """(n, length) float64 in [0, 1): the patches with the smallest values stay visible."""
    return torch.from_numpy(wave(n * length, "noise", 0, 1).reshape(n, length))


def tokens(n: int, length: int, vocabulary: int) -> Tensor:
    """(n, length) int64 visual tokens."""
    return torch.from_numpy(
        np.floor(wave(n * length, "tokens", 0, vocabulary)).astype(np.int64).reshape(n, length)
    )


def training_batches(n: int, size: int, length: int, steps: int):
    """The batches of the `train_12_steps` case: images and noise, step by step."""
    first, ranks = images(n, size), noise(n, length)
    for step in range(steps):
        yield first.roll(step, 3).flip(2) * (1 + 0.01 * step), ranks.roll(step, 1)
