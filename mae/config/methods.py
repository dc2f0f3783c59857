"""The sections of `params.yaml` for pretraining: `pretrain`, and one section for each method."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, PlainValidator

from mae.config.encoder import Encoder
from mae.config.sections import Section, Training
from mae.config.values import (
    Above0,
    Below1,
    Betas,
    Decay,
    Depth,
    Fraction,
    Positive,
    Rate,
    Shares,
    Temperature,
    Text,
    Width,
)
from mae.suggestions import not_one_of

# Rows of the tables in mae/models, named here because those modules import torch; a test compares.
Target = Literal["pixels", "normalised_pixels", "pca", "hog", "mean_colour", "mosaic", "tokens"]
Mask = Literal["random", "block", "grid", "cells", "multiblock"]
Augment = Literal["none", "fixed_crop", "crop", "crop_jitter", "two_views"]  # of data/transforms


SOONEST = 0.05  # epochs between two online probes


def _share_or_count(value: Any) -> float:
    # 1 could be all patches as well as one of them, and neither trains an encoder.
    if (type(value) is float and 0 < value < 1) or (type(value) is int and 1 < value < 2**31):
        return value
    raise ValueError(
        f"a share of the patches, above 0 and below 1, or a whole number of them, 2 or more, found {value!r}"
    )


def _never_or_seldom(epochs: float) -> float:
    if 0 < epochs < SOONEST:
        raise ValueError(
            f"{epochs:g} would probe after nearly every step; use 0 for never, or {SOONEST} or more"
        )
    return epochs


class OnlineProbe(Section):
    """kNN on a few samples during pretraining, every `every_epochs` (0: never).

    layers: after the last step, a linear probe on the output of each block, on as many samples.
    """

    every_epochs: Annotated[Rate, AfterValidator(_never_or_seldom)]
    samples: Positive
    layers: bool


class Pretrain(Training):
    """The settings of every method.

    init: a method file (any run's models/pretrain/method.safetensors) to continue from; null: random weights.
    mask_ratio: the share of the patches that are masked, or their number as a whole number.
    """

    method: str
    init: Text | None
    epochs: Positive
    target: Target
    mask: Mask
    mask_ratio: Annotated[float, PlainValidator(_share_or_count)]
    drop_path: Below1
    betas: Betas
    augment: Augment
    crop_scale: Shares
    flip: bool
    ema: Decay | None
    probe: OnlineProbe


class MAE(Section):
    """MAE's decoder; methods/mae.py explains each setting."""

    decoder_embed_dim: Width
    decoder_depth: Depth
    decoder_num_heads: Width
    mask_tokens: Literal["decoder", "encoder"]

    def faults(self) -> Iterator[str]:
        if self.decoder_embed_dim % self.decoder_num_heads:
            yield (
                f"decoder_embed_dim {self.decoder_embed_dim} is not divisible by decoder_num_heads "
                f"{self.decoder_num_heads}"
            )
        if self.decoder_embed_dim % 4:
            yield f"decoder_embed_dim {self.decoder_embed_dim} must be a multiple of 4"


class CAE(Section):
    """CAE's regressor and decoder, as wide as the encoder. init_values: of their LayerScale (null: none)."""

    regressor_depth: Depth
    decoder_depth: Depth
    alignment_weight: Rate
    init_values: Above0 | None


class Shared(Section):
    """A method without settings of its own: mask, ratio and target are those of `pretrain`."""


class MPP(Section):
    """Shares of the masked patches that enter as another patch (swap) and as they are (keep)."""

    swap: Fraction
    keep: Fraction

    def faults(self) -> Iterator[str]:
        if self.swap + self.keep > 1:
            yield f"swap {self.swap} and keep {self.keep} are shares: at most 1 in all"


class MoCoV3(Section):
    """MoCo v3, or BYOL or SimCLR by `loss`; methods/mocov3.py explains each setting."""

    views: ClassVar[int] = 2  # of an image; 1 by default. The same as the method's; a test compares
    loss: Literal["mocov3", "byol", "simclr"]
    hidden_dim: Width
    out_dim: Width
    temperature: Temperature
    momentum: Below1
    freeze_patches: bool


class IJEPA(Section):
    """The predictor, and the teacher's momentum at first; by default the paper's for ViT-B."""

    predictor_embed_dim: Annotated[Width, Field(multiple_of=4)] = 384
    predictor_depth: Depth = 6
    predictor_num_heads: Width = 12
    momentum: Below1 = 0.996

    def faults(self) -> Iterator[str]:
        if self.predictor_embed_dim % self.predictor_num_heads:
            yield (
                f"predictor_embed_dim {self.predictor_embed_dim} is not divisible by predictor_num_heads "
                f"{self.predictor_num_heads}"
            )


class Supervised(Section):
    num_classes: Width
    pool: Literal["token", "avg"]
    smoothing: Below1


class Methods(Section):
    """A section for each row of METHODS, by its name there."""

    mae: MAE
    cae: CAE
    beit: Shared
    simmim: Shared
    mpp: MPP
    denoising: Shared
    mocov3: MoCoV3
    igpt: Shared
    ijepa: IJEPA = IJEPA()
    supervised: Supervised


def check_method(pretrain: Pretrain) -> Iterator[str]:
    """Yield faults: an unknown method, or one that would not get the views that it compares."""
    if pretrain.method not in Methods.model_fields:
        yield f"pretrain.method: {not_one_of(pretrain.method, Methods.model_fields)}"
        return
    views = getattr(Methods.model_fields[pretrain.method].annotation, "views", 1)
    if pretrain.augment == "two_views" and views != 2:
        yield f"pretrain.augment two_views makes 2 views, {pretrain.method} takes {views}"
    if views > 1 and pretrain.augment in ("none", "fixed_crop") and not pretrain.flip:
        yield (
            f"pretrain.method {pretrain.method} compares views of an image, which pretrain.augment "
            f"{pretrain.augment} with flip false makes equal: augment two_views is its paper's"
        )


def check_mask(pretrain: Pretrain, encoder: Encoder) -> Iterator[str]:
    """Yield a fault where no patch would be masked, or none visible; rounds as models/masking.py does."""
    if encoder.grid is None:
        return
    counted = isinstance(pretrain.mask_ratio, int)
    side = 2 if pretrain.mask == "cells" and not counted else 1
    parts = math.prod(math.ceil(patches / side) for patches in encoder.grid)
    visible = parts - pretrain.mask_ratio if counted else int(parts * (1 - pretrain.mask_ratio))
    if not 0 < visible < parts:
        yield (
            f"pretrain.mask_ratio {pretrain.mask_ratio}: of an image's {parts} "
            f"{'cells' if side > 1 else 'patches'} some must be masked and some stay visible, not {visible}"
        )
