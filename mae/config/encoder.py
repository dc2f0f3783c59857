"""The section `encoder` of `params.yaml`, and facts about a ViT that need no building."""

import re
from typing import Annotated, Any

from pydantic import Field, model_validator

from mae.config.sections import Section
from mae.config.values import Positive, Size

DEPTHS = {"tiny": 12, "small": 12, "base": 12, "large": 24, "huge": 32}  # of timm; a test compares


class Encoder(Section):
    """A plain timm `vit_*` by name; a null keeps the value that the name stands for."""

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
        """The number of blocks; None where only timm, which takes seconds to import, knows."""
        size = re.match(r"vit_(tiny|small|base|large|huge)_", self.name)
        return self.depth or (size and DEPTHS[size[1]])

    @property
    def patch(self) -> tuple[int, int] | None:
        """(rows, columns) of a patch in pixels; None where only timm knows."""
        named = re.search(r"_patch(\d+)", self.name)
        size = self.patch_size or (named and int(named[1]))
        return (size, size) if isinstance(size, int) else size

    @property
    def image(self) -> tuple[int, int]:
        """(rows, columns) of an image in pixels."""
        return (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of an image in patches; None where only timm knows."""
        return self.patch and (self.image[0] // self.patch[0], self.image[1] // self.patch[1])

    @model_validator(mode="after")
    def _can_be_built(self) -> "Encoder":
        if self.patch and (self.image[0] % self.patch[0] or self.image[1] % self.patch[1]):
            raise ValueError(f"img_size {self.img_size} is not a multiple of the patch size {self.patch}")
        if self.embed_dim and self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} must be a multiple of 4")
        if self.embed_dim and self.num_heads and self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}")
        return self

    @property
    def overrides(self) -> dict[str, Any]:
        """The settings other than name and image size that are not null."""
        return self.model_dump(exclude={"name", "img_size"}, exclude_none=True)

    @property
    def resized(self) -> bool:
        """True where patches, width, depth, heads or MLP differ from those of the name."""
        return bool(self.overrides.keys() - {"init_values"})
