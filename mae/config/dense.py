"""The sections of `params.yaml` for detection, segmentation and their data."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mae.config.encoder import Encoder
from mae.config.sections import Section, Steps
from mae.config.values import Below1, Betas, Count, Factors, LayerDecay, Positive, Rate

# The same limits are in models/, which needs torch; a test compares.
TAPS = 4
DPT_PATCHES = (1, 2, 4, 8, 16, 32)


class IngestDetect(Section):
    """The detection set. source `none`: no such data; the stages that need it are skipped."""

    source: Literal["demo", "coco", "none"]
    root: str
    val_fraction: Below1


class IngestSegment(Section):
    """The segmentation set. source `none`: no such data; the stages that need it are skipped."""

    source: Literal["demo", "ade20k", "camvid", "label_maps", "none"]
    root: str
    val_fraction: Below1


class ShardAnnotated(Section):
    """Shards of annotated images, copied unscaled: scaling would have to scale their annotations too."""

    max_count: Positive
    max_bytes: Positive
    max_rejected: Count


class WithoutPretraining(Section):
    """Settings of the baseline from random weights that differ; the budget of steps is the same."""

    base_lr: Rate
    layer_decay: LayerDecay


class Dense(Steps):
    """The settings of both dense tasks. inits: encoders to train from; the first one is registered."""

    inits: Annotated[list[Literal["pretrained", "scratch"]], Field(min_length=1)]
    steps: Positive
    warmup_steps: Count
    betas: Betas
    layer_decay: LayerDecay
    drop_path: Below1
    channels: Positive
    flip: bool
    scratch: WithoutPretraining

    @model_validator(mode="after")
    def _names_each_encoder_once(self) -> "Dense":
        if len(set(self.inits)) != len(self.inits):
            raise ValueError(f"inits {self.inits} names an encoder twice")
        return self

    @model_validator(mode="after")
    def _warms_up_before_the_end(self) -> "Dense":
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}")
        return self


class Detect(Dense):
    """Mask R-CNN on the encoder. Sizes in pixels.

    window: in patches. anchor_scale: an anchor's side over its level's stride. milestones: steps at which the
    rate falls tenfold. patch_size: the patch embedding is resampled to it (null: the encoder's own).
    max_objects: of a training image only its so many largest objects are used; masks and matching take memory
    for each.
    """

    image_size: Positive
    patch_size: Positive | None
    jitter_scale: Factors
    window: Positive
    global_blocks: list[Count]
    box_convs: Positive
    box_dim: Positive
    mask_convs: Positive
    anchor_scale: Positive
    rois: Positive
    proposals: Positive
    detections: Positive
    max_objects: Positive
    milestones: list[Positive]

    @model_validator(mode="after")
    def _lowers_the_rate_step_by_step(self) -> "Detect":
        if sorted({*self.milestones, self.steps}) != [*self.milestones, self.steps]:
            raise ValueError(
                f"milestones {self.milestones}: steps in ascending order, below steps {self.steps}"
            )
        return self


class Segment(Dense):
    """UperNet or DPT on the encoder. Sizes in pixels.

    crop: the training crop and the sliding window. short: the image's shorter side before it is cropped or
    tested. stride: of the sliding window.
    """

    head: Literal["upernet", "dpt"]
    crop: Positive
    short: Positive
    stride: Positive
    taps: list[Count]
    dropout: Below1
    auxiliary: Rate
    auxiliary_channels: Positive
    ratio: Factors
    max_class_share: Annotated[float, Field(gt=0, le=1)]
    jitter: bool

    @model_validator(mode="after")
    def _slides_without_gaps(self) -> "Segment":
        if self.stride > self.crop:
            raise ValueError(f"stride {self.stride} exceeds crop {self.crop}: windows would leave gaps")
        return self

    @model_validator(mode="after")
    def _has_batches_to_normalise(self) -> "Segment":
        if self.head == "upernet" and self.batch_size // self.accumulate < 2:
            raise ValueError(
                f"batch_size {self.batch_size} in {self.accumulate} parts: the batch norms of upernet need 2 "
                "images at a time, or more"
            )
        return self


def check_detect(detect: Detect, encoder: Encoder) -> None:
    """Raise ValueError for settings of a detector that cannot be built."""
    named, blocks, patch = detect.global_blocks, encoder.blocks, encoder.patch
    if blocks and max(named, default=0) >= blocks:
        raise ValueError(f"detect.global_blocks {named}: the encoder's blocks are 0 to {blocks - 1}")
    if patch and patch[0] != patch[1] and detect.patch_size is None:
        raise ValueError(f"encoder.patch_size {list(patch)}: detection needs squares; set detect.patch_size")


def check_segment(segment: Segment, encoder: Encoder) -> None:
    """Raise ValueError for settings of a segmenter that cannot be built."""
    taps, blocks, patch = segment.taps, encoder.blocks, encoder.patch
    if len(taps) != TAPS or taps != sorted(taps) or (blocks and taps[-1] != blocks - 1):
        message = f"segment.taps {taps}: name {TAPS} ascending blocks that end with the encoder's last"
        if blocks:
            message += f", {blocks - 1}; such as {[blocks * part // 4 - 1 for part in (1, 2, 3, 4)]}"
        raise ValueError(message)
    if segment.head == "dpt" and patch and (patch[0] != patch[1] or patch[0] not in DPT_PATCHES):
        raise ValueError(
            f"segment.head dpt needs square patches of {', '.join(map(str, DPT_PATCHES))} pixels, not of "
            f"{list(patch)}: set segment.head to upernet"
        )
