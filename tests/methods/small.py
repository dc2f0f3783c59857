"""Encoders and images that a test of a method can wait for."""

import torch

from mae.models.vit import build


def small_encoder(seed=0, **settings):
    """32 wide, of 2 blocks and 4 x 4 patches."""
    torch.manual_seed(seed)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4}
    return build("vit_tiny_patch16_224", **{**sizes, **settings})


def some_images(n=3, seed=1, side=16):
    """float64 (n, 3, side, side), as if normalised."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, side, side, generator=generator, dtype=torch.float64)
