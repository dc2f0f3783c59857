"""The sections of `params.yaml` about pretraining: what every method has, and one section for each."""

from typing import Annotated, Literal

from pydantic import Field

from mae.config.sections import Decay, Pair, Positive, Rate, Section, Training

# Rows of the tables in mae/models, named here because those modules import torch; a test compares.
Target = Literal["pixels", "normalised_pixels", "pca", "hog", "mean_colour", "mosaic", "tokens"]
Mask = Literal["random", "block", "grid", "cells"]


class OnlineProbe(Section):
    """kNN on a few samples while pretraining, every `every_epochs` (0: never)."""

    every_epochs: Rate
    samples: Positive


class Pretrain(Training):
    """init: a method file (any run's models/pretrain/method.safetensors) to go on from; null: random."""

    method: str
    init: str | None
    epochs: Positive
    target: Target
    mask: Mask
    mask_ratio: Annotated[float, Field(gt=0, lt=1)]
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    betas: Pair
    crop_scale: Pair
    flip: bool
    ema: Decay | None
    probe: OnlineProbe


class MAE(Section):
    """The decoder; its constructor says what each is (methods/mae.py)."""

    decoder_embed_dim: Positive
    decoder_depth: Positive
    decoder_num_heads: Positive
