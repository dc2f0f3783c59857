"""A tiny encoder and photographs of several sizes and formats, for tests that embed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
CONFIG = {"name": "vit_tiny_patch16_224", **SIZES, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3]}
IMAGES = {
    "a/wide.jpg": (90, 40),
    "a/tall.png": (33, 70),
    "b/square.webp": (64, 64),
    "b/c/small.jpg": (20, 24),
    "exact.png": (32, 32),
}


def write_encoder(file: Path, config: Mapping[str, Any] = CONFIG, seed: int = 0) -> Path:
    """Write an encoder file with random weights, those of its norms and biases too."""
    from mae.interchange import encoder_arguments, save_encoder
    from mae.models.vit import build

    torch.manual_seed(seed)
    vit = build(**encoder_arguments(config))
    state = {name: value + 0.2 * torch.randn_like(value) for name, value in vit.state_dict().items()}
    save_encoder(file, state, config)
    return file


def write_images(folder: Path) -> list[Path]:
    """Write smooth pictures, which every resampling keeps, and return their paths by name."""
    rng = np.random.default_rng(0)
    for name, size in IMAGES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(path, quality=95)
    return [folder / name for name in sorted(IMAGES)]
