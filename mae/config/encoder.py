"""The section `encoder` of `params.yaml`: which ViT, and what can be said of it without building it."""

import re
from typing import Annotated, Any

from pydantic import Field, model_validator

from mae.config.sections import Section
from mae.config.values import Positive, Size

DEPTHS = {"tiny": 12, "small": 12, "base": 12, "large": 24, "huge": 32}  # timm's, a test says


class Encoder(Section):
    """`name` is a plain timm `vit_*`; a null keeps what that name says."""

    name: str
    img_size: Size
    patch_size: Size | None
    embed_dim: Positive | None
    depth: Positive | None
    num_heads: Positive | None
    mlp_ratio: Annotated[float, Field(gt=0)] | None
    init_values: Annotated[float, Field(gt=0)] | None

    @property
    def blocks(self) -> int | None:
        """How many blocks it has; None where only timm, which takes seconds to import, could tell."""
        size = re.match(r"vit_(tiny|small|base|large|huge)_", self.name)
        return self.depth or (size and DEPTHS[size[1]])

    @property
    def patch(self) -> tuple[int, int] | None:
        """(rows, columns) of a patch in pixels; None where only timm could tell."""
        named = re.search(r"_patch(\d+)", self.name)
        size = self.patch_size or (named and int(named[1]))
        return (size, size) if isinstance(size, int) else size

    @property
    def image(self) -> tuple[int, int]:
        """(rows, columns) of an image in pixels."""
        return (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of an image in patches; None where only timm could tell."""
        return self.patch and (self.image[0] // self.patch[0], self.image[1] // self.patch[1])

    @model_validator(mode="after")
    def _can_be_built(self) -> "Encoder":
        if self.patch and (self.image[0] % self.patch[0] or self.image[1] % self.patch[1]):
            raise ValueError(f"img_size {self.img_size} is no multiple of patches of {self.patch}")
        if self.embed_dim and self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} is not divisible by 4, as its positions ask")
        if self.embed_dim and self.num_heads and self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}")
        return self

    @property
    def overrides(self) -> dict[str, Any]:
        """What is said beyond the name and the image size."""
        return self.model_dump(exclude={"name", "img_size"}, exclude_none=True)

    @property
    def resized(self) -> bool:
        """Whether patches, width, depth, heads or MLP are others than its name says."""
        return bool(self.overrides.keys() - {"init_values"})
