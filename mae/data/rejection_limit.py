"""The bound on images of a set that cannot be used."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class RejectionLimit:
    """A number of images, or a share of the set between 0 and 1, that may be unusable.

    key: the setting of params.yaml that raises the bound, for messages; "" where there is none.
    """

    bound: int | float = 0
    key: str = ""

    def count(self, total: int) -> int:
        """Return the number of images that may be unusable, among `total`."""
        return math.floor(self.bound * total + 1e-9) if isinstance(self.bound, float) else self.bound

    def spelled(self, total: int) -> str:
        """Spell the bound for an error: "4 are allowed (shard.max_rejected 0.01 of 400)"."""
        count = self.count(total)
        share = f" {self.bound:g} of {total:,}" if isinstance(self.bound, float) else ""
        return f"{count:,} are allowed" + (f" ({self.key}{share})" if self.key else "")
