"""The section `encoder` of `params.yaml`, and facts about a ViT that need no building."""

import math
import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from mae.config.sections import Section
from mae.config.values import Above0, Depth, Size, Text, Width

MOST_PATCHES = 2**16  # of an image: attention compares each with each
DEPTHS = {"tiny": 12, "small": 12, "base": 12, "large": 24, "huge": 32}  # of timm; a test compares


class Encoder(Section):
    """A plain timm `vit_*` by name; a null keeps the value that the name stands for."""

    name: Text
    img_size: Size
    patch_size: Size | None
    embed_dim: Width | None
    depth: Depth | None
    num_heads: Width | None
    mlp_ratio: Annotated[float, Field(gt=0, le=64)] | None
    init_values: Above0 | None

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

    def faults(self) -> Iterator[str]:
        if self.patch and (self.image[0] % self.patch[0] or self.image[1] % self.patch[1]):
            yield f"img_size {self.img_size} is not a multiple of the patch size {self.patch}"
        if self.grid and math.prod(self.grid) > MOST_PATCHES:
            yield (
                f"img_size {self.img_size} in patches of {self.patch} has {math.prod(self.grid)} patches; at "
                f"most {MOST_PATCHES} are possible: lower it, or raise patch_size"
            )
        if self.embed_dim and self.embed_dim % 4:
            yield f"embed_dim {self.embed_dim} must be a multiple of 4"
        if self.embed_dim and self.num_heads and self.embed_dim % self.num_heads:
            yield f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}"
        if self.embed_dim and self.mlp_ratio and int(self.embed_dim * self.mlp_ratio) < 1:
            yield f"mlp_ratio {self.mlp_ratio} of embed_dim {self.embed_dim} is a width of 0; 4 is usual"

    @property
    def overrides(self) -> dict[str, Any]:
        """The settings other than name and image size that are not null."""
        return self.model_dump(exclude={"name", "img_size"}, exclude_none=True)

    @property
    def resized(self) -> bool:
        """True where patches, width, depth, heads or MLP differ from those of the name."""
        return bool(self.overrides.keys() - {"init_values"})
