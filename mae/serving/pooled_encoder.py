"""An encoder in Python as it is served: the model that pools, and the transform of its images. No MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from mae.data.decode import decode, image_pixels
from mae.data.transforms.image import Normalize
from mae.files import sha256_of
from mae.interchange import encoder_arguments, load_encoder
from mae.models.vit import POOLS, build
from mae.serving.answers import pooled, scaling
from mae.suggestions import not_one_of


class PooledEncoder(nn.Module):
    """An encoder whose call gives the served embedding: images (N, 3, H, W), normalised, -> (N, embed_dim).

    vit: the timm VisionTransformer in it. pool: "avg" (mean of the normalised patch tokens) or "token".
    digest: the sha256 of its file.
    """

    def __init__(self, vit: Any, pool: str, digest: str) -> None:
        super().__init__()
        self.vit, self.pool, self.digest = vit, pool, digest

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return pooled(self.vit.forward_features(images), self.pool)

    def patches(self, images: torch.Tensor) -> torch.Tensor:
        """Return the normalised patch tokens (N, L, embed_dim), row by row of the image."""
        return self.vit.forward_features(images)[:, 1:]


class InputTransform:
    """The served way from an image to the encoder's input: float32 (3, H, W), scaled, cropped, normalised.

    It takes the path of an image file, its bytes, a PIL image, or decoded pixels as a uint8 tensor (3, H, W).
    scale: the part before the normalisation, from uint8 to uint8; normalize: the part on the device.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.scale = scaling(config)
        self.normalize = Normalize(config["mean"], config["std"])

    def __call__(self, image: str | Path | bytes | Image.Image | torch.Tensor) -> torch.Tensor:
        return self.normalize(self.scale(_decoded(image)))


def _decoded(image: Any) -> torch.Tensor:
    if isinstance(image, torch.Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(
                f"a tensor {image.dtype} {tuple(image.shape)}: the transform takes decoded pixels, "
                "uint8 (3, H, W)"
            )
        return image
    if isinstance(image, Image.Image):
        return torch.from_numpy(image_pixels(image)).permute(2, 0, 1)
    if isinstance(image, str | Path):
        return decode(Path(image).read_bytes())
    if isinstance(image, bytes):
        return decode(image)
    raise TypeError(
        f"the transform takes a path, bytes, a PIL image or a uint8 tensor, not {type(image).__name__}"
    )


def load_pooled(file: str | Path, pool: str = "avg") -> tuple[PooledEncoder, InputTransform]:
    """Load an encoder file as (model in evaluation mode on the CPU, transform).

    Raises ValueError naming the file and its fault, and for another pool.
    """
    if pool not in POOLS:
        raise ValueError(f"pool {not_one_of(pool, POOLS)}")
    state, config = load_encoder(file)
    if (channels := config.get("in_chans", 3)) != 3:
        raise ValueError(f"{file}: an image file has 3 channels, but the encoder's config has {channels}")
    vit = build(**encoder_arguments(config))
    vit.load_state_dict(state)
    return PooledEncoder(vit, pool, sha256_of(file)).eval(), InputTransform(config)
