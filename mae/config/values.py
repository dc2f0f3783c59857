"""The types of the values in `params.yaml`, with their bounds.

The upper bounds refuse what no machine computes or what overflows; they are far above the papers' settings.
"""

import posixpath
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, WithJsonSchema

MOST_PIXELS = 8192  # of an image's side
MOST_TIMES = 16  # smaller or larger by augmentation
_RAND_AUGMENT = re.compile(r"(mstd|mmax|inc|m|n|p)(\d{1,6}(?:\.\d+)?)|t(?:weights|3aw?)")
Channels = tuple[float, float, float]


def _from_low_to_high(factors: tuple[float, float]) -> tuple[float, float]:
    if not 0 < factors[0] <= factors[1] or factors[0] < 1 / MOST_TIMES or factors[1] > MOST_TIMES:
        raise ValueError(
            f"{list(factors)}: expected 0 < low <= high, from 1/{MOST_TIMES} to {MOST_TIMES} of the size"
        )
    return factors


def _of_the_image(shares: tuple[float, float]) -> tuple[float, float]:
    if not 0 < shares[0] <= shares[1] <= 1:
        raise ValueError(f"{list(shares)}: expected 0 < low <= high <= 1, shares of the image's area")
    return shares


def formed(pattern: str, example: str) -> AfterValidator:
    """Make the check of a text's form, with a message for readers who know no regular expressions."""

    def check(text: str) -> str:
        if not re.match(pattern, text):
            raise ValueError(f"{text!r}: expected a text such as {example}")
        return text

    return AfterValidator(check)


def _text(text: str) -> str:
    if not text.strip() or text != text.strip() or not text.isprintable():
        raise ValueError(f"{text!r}: expected text, without spaces at its ends and control characters")
    return text


def _model_name(name: str) -> str:
    """MLflow's rule for registered models, which only its server checks; a test compares."""
    if set(name) & {"/", ":"} or posixpath.normpath(name) != name or name.startswith("..") or name == ".":
        raise ValueError(
            f"{name!r}: MLflow registers no such name; use letters, digits, `-` and `_`, e.g. mae-encoder"
        )
    return name


def _rand_augment(text: str) -> str:
    """Check timm's string: timm itself skips what it does not know, and cuts what is too strong."""
    name, *pieces = text.split("-")
    found = [_RAND_AUGMENT.fullmatch(piece) for piece in pieces]
    given = {one[1] or "t": one[2] or "" for one in found if one}
    number = {"m": 9.0, "mmax": 10.0, "n": 2.0, "p": 1.0, "inc": 1.0}
    number |= {key: float(value) for key, value in given.items() if value}
    known = name == "rand" and len(given) == len(pieces)  # each once
    whole = not any("." in given.get(key, "") for key in ("m", "mmax", "n", "inc"))
    bounded = number["m"] <= number["mmax"] and 1 <= number["n"] <= 20 and 0 < number["p"] <= 1
    if not (known and whole and bounded and number["inc"] <= 1):
        raise ValueError(
            f"{text!r}: expected timm's string, e.g. rand-m9-mstd0.5-inc1: m magnitude to 10 (or mmax), "
            "mstd its deviation, n operations, p probability, inc 0 or 1, tweights"
        )
    return text


def _one_for_each(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError(f"{values} names one twice; name each once")
    return values


def _side_or_sides(value: Any) -> int | tuple[int, int]:
    sides = value if isinstance(value, list | tuple) else [value]
    whole = all(type(side) is int and 0 < side <= MOST_PIXELS for side in sides)
    if not whole or len(sides) not in ((2,) if sides is value else (1,)):
        raise ValueError(
            f"found {value!r}; give a side in pixels, or [height, width]: whole, 1 to {MOST_PIXELS}"
        )
    return value if isinstance(value, int) else (sides[0], sides[1])


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
Rate = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Above0 = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
# of a softmax over cosines: below it, all but one weight are 0 in float32; above it, all weights are alike
Temperature = Annotated[float, Field(ge=0.005, le=10, allow_inf_nan=False)]
Positive = Annotated[int, Field(gt=0, lt=2**31)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Bytes = Annotated[int, Field(gt=0, lt=2**62)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Width = Annotated[int, Field(gt=0, le=65536)]
Depth = Annotated[int, Field(gt=0, le=128)]  # blocks or layers
Crop = Annotated[int, Field(ge=16, le=MOST_PIXELS)]  # pixels of a dense task's side
Pixels = Annotated[int, Field(gt=0, le=MOST_PIXELS)]
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
_SIDE = {"type": "integer", "exclusiveMinimum": 0, "maximum": MOST_PIXELS}
Size = Annotated[
    int | tuple[int, int],
    PlainValidator(_side_or_sides),
    WithJsonSchema({"anyOf": [_SIDE, {"type": "array", "prefixItems": [_SIDE, _SIDE]}]}),
]
Colour = Annotated[
    Literal["auto"] | Annotated[tuple[Fraction, Fraction, Fraction], Field(strict=False)],
    BeforeValidator(_shares_of_full_brightness),
]
Spread = Annotated[Colour, AfterValidator(_above_0)]
UsedBits = Annotated[int, Field(ge=9, le=15)]
Precision = Literal["auto", "fp32", "bf16"]
Text = Annotated[str, Field(max_length=1000), AfterValidator(_text)]
ModelName = Annotated[str, Field(max_length=250), AfterValidator(_text), AfterValidator(_model_name)]
Different = AfterValidator(_one_for_each)
RandAugment = Annotated[str, AfterValidator(_rand_augment)]
