"""The section `tokenizer` of `params.yaml`: tokens, components or a palette, fitted before pretraining."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from mae.config.sections import Training
from mae.config.values import Betas, Depth, Positive, Shares, Width

# The kinds that each value of pretrain.target needs; iGPT's tokens are colours.
NEEDS = {"tokens": ("fsq", "kmeans"), "pca": ("pca",)}
COLOURS = {"igpt": {"tokens": ("palette",)}}


MOST_CODES = 2**16  # a cached token has 16 bits (data/loading/token_cache.py)


def _few_enough(levels: list[int]) -> list[int]:
    if math.prod(levels) > MOST_CODES:
        raise ValueError(f"{levels} make {math.prod(levels)} codes; at most {MOST_CODES} are possible")
    return levels


class Tokenizer(Training):
    """Tokens, components or a palette for pretraining. Only `kind: fsq` reads the settings of training."""

    kind: Literal["none", "fsq", "kmeans", "pca", "palette"]
    codes: Annotated[int, Field(ge=2, le=MOST_CODES)]
    levels: Annotated[list[Annotated[int, Field(ge=3)]], Field(min_length=1), AfterValidator(_few_enough)]
    width: Annotated[Width, Field(multiple_of=8)]
    depth: Depth
    components: Width
    cache: bool
    epochs: Positive
    betas: Betas
    crop_scale: Shares
    flip: bool


def check_asked_for(tokenizer: Tokenizer, pretrain: Any) -> Iterator[str]:
    """Yield faults where `pretrain` needs another kind, or where cached tokens would be wrong."""
    if pretrain.method == "igpt" and pretrain.target not in ("mean_colour", "tokens"):
        yield f"pretrain.target {pretrain.target}: igpt predicts classes; set it to mean_colour or tokens"
    needs = NEEDS | COLOURS.get(pretrain.method, {})
    kinds = needs.get(pretrain.target, (tokenizer.kind,))
    if tokenizer.kind not in kinds:
        yield (
            f"pretrain.target {pretrain.target} needs tokenizer.kind {' or '.join(kinds)} "
            f"with method {pretrain.method}, not {tokenizer.kind}"
        )
    others = other_views(pretrain)
    if tokenizer.cache and others:
        yield (
            "tokenizer.cache keeps the tokens of one view of an image: it needs pretrain.target tokens, "
            f"augment none and flip false, found {', '.join(f'{k} {v}' for k, v in others.items())}"
        )


def other_views(pretrain: Any) -> dict[str, Any]:
    """The settings under which `pretrain` uses no tokens, or other views than those that are cached."""
    wanted = {"target": "tokens", "augment": "none", "flip": False}
    return {key: getattr(pretrain, key) for key, value in wanted.items() if getattr(pretrain, key) != value}
