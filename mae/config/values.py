"""The types of the values in `params.yaml`, with their bounds."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema

Channels = tuple[float, float, float]


def _from_low_to_high(factors: tuple[float, float]) -> tuple[float, float]:
    if not 0 < factors[0] <= factors[1] < math.inf:
        raise ValueError(f"{list(factors)}: expected 0 < low <= high")
    return factors


def _of_the_image(shares: tuple[float, float]) -> tuple[float, float]:
    if not 0 < shares[0] <= shares[1] <= 1:
        raise ValueError(f"{list(shares)}: expected 0 < low <= high <= 1, shares of the image's area")
    return shares


def _shares_of_full_brightness(values: Any) -> Any:
    """Refuse numbers of another scale: with 0 to 255 every training runs, on images of nearly one value."""
    if values == "auto":
        return values
    if not isinstance(values, list | tuple) or len(values) != 3 or {*map(type, values)} - {int, float}:
        raise ValueError(f"{values!r}: expected three numbers in 0..1, of red, green and blue, or auto")
    if not all(0 <= value <= 1 for value in values):  # NaN is in no range
        remedy = "; divide them by 255" if 1 < max(values) <= 255 else ""
        raise ValueError(f"{list(values)}: expected numbers in 0..1, shares of full brightness{remedy}")
    return values


def _above_0(values: Channels | Literal["auto"]) -> Channels | Literal["auto"]:
    if values != "auto" and not all(values):
        raise ValueError(f"{list(values)}: expected numbers above 0: images are divided by them")
    return values


def _count_or_share(bound: Any) -> int | float:
    if type(bound) is int and bound >= 0:
        return bound
    if type(bound) is float and 0 < bound < 1:
        return bound
    raise ValueError(f"{bound!r}: expected a number of images (0, 1, 2 ...) or a share of them (0.01: 1 %)")


Fraction = Annotated[float, Field(ge=0, le=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Decay = Annotated[float, Field(gt=0, lt=1)]
LayerDecay = Annotated[float, Field(gt=0, le=1)] | None
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
CountOrShare = Annotated[
    int | float,
    PlainValidator(_count_or_share),  # one message, where a union has one for each of its types
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            ]
        }
    ),
]
Pair = Annotated[tuple[float, float], Field(strict=False)]
Betas = Annotated[tuple[Below1, Below1], Field(strict=False)]
Factors = Annotated[Pair, AfterValidator(_from_low_to_high)]
Shares = Annotated[Pair, AfterValidator(_of_the_image)]
Size = Positive | Annotated[tuple[Positive, Positive], Field(strict=False)]
Colour = Annotated[
    Literal["auto"] | Annotated[tuple[Fraction, Fraction, Fraction], Field(strict=False)],
    BeforeValidator(_shares_of_full_brightness),
]
Spread = Annotated[Colour, AfterValidator(_above_0)]
UsedBits = Annotated[int, Field(ge=9, le=15)]
Precision = Literal["auto", "fp32", "bf16"]
# timm's string, of its part about RandAugment.
RandAugment = Annotated[
    str, Field(pattern=r"^rand(-(m\d+|n\d+|p[\d.]+|mstd[\d.]+|mmax\d+|inc[01]|t[a-z]*))*$")
]
