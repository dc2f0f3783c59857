"""The types of the values in `params.yaml`, with their bounds.

The upper bounds refuse what no machine computes or what overflows; they are far above the papers' settings.
"""

import posixpath
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema

MOST_PIXELS = 8192  # of an image's side
MOST_TIMES = 16  # smaller or larger by augmentation
_RAND_AUGMENT = re.compile(r"(mstd|mmax|inc|m|n|p)(\d{1,6}(?:\.\d+)?)|t(?:weights|3aw?)")


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
Colour = Annotated[tuple[float, float, float], Field(strict=False)]
Spread = Annotated[tuple[Above0, Above0, Above0], Field(strict=False)]
Precision = Literal["auto", "fp32", "bf16"]
Text = Annotated[str, Field(max_length=1000), AfterValidator(_text)]
ModelName = Annotated[str, Field(max_length=250), AfterValidator(_text), AfterValidator(_model_name)]
Different = AfterValidator(_one_for_each)
RandAugment = Annotated[str, AfterValidator(_rand_augment)]
