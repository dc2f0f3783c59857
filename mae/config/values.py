"""The types of the values in `params.yaml`, with their bounds."""

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field


def _from_low_to_high(factors: tuple[float, float]) -> tuple[float, float]:
    if not 0 < factors[0] <= factors[1] < math.inf:
        raise ValueError(f"{list(factors)}: expected 0 < low <= high")
    return factors


def _of_the_image(shares: tuple[float, float]) -> tuple[float, float]:
    if not 0 < shares[0] <= shares[1] <= 1:
        raise ValueError(f"{list(shares)}: expected 0 < low <= high <= 1, shares of the image's area")
    return shares


Fraction = Annotated[float, Field(ge=0, le=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Decay = Annotated[float, Field(gt=0, lt=1)]
LayerDecay = Annotated[float, Field(gt=0, le=1)] | None
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Pair = Annotated[tuple[float, float], Field(strict=False)]
Betas = Annotated[tuple[Below1, Below1], Field(strict=False)]
Factors = Annotated[Pair, AfterValidator(_from_low_to_high)]
Shares = Annotated[Pair, AfterValidator(_of_the_image)]
Size = Positive | Annotated[tuple[Positive, Positive], Field(strict=False)]
Colour = Annotated[tuple[float, float, float], Field(strict=False)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Spread = Annotated[tuple[Above0, Above0, Above0], Field(strict=False)]
Precision = Literal["auto", "fp32", "bf16"]
# timm's string, of its part about RandAugment.
RandAugment = Annotated[
    str, Field(pattern=r"^rand(-(m\d+|n\d+|p[\d.]+|mstd[\d.]+|mmax\d+|inc[01]|t[a-z]*))*$")
]
