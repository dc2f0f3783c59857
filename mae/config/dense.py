"""The sections of `params.yaml` for detection, segmentation and their data."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from mae.config.encoder import Encoder
from mae.config.sections import Section, Steps, beyond_adamw
from mae.config.values import (
    Below1,
    Betas,
    Bytes,
    Count,
    CountOrShare,
    Crop,
    Depth,
    Different,
    Factors,
    LayerDecay,
    Pixels,
    Positive,
    Rate,
    Text,
    UsedBits,
    Width,
)

# The same limits are in models/, which needs torch; a test compares.
TAPS = 4
DPT_PATCHES = (1, 2, 4, 8, 16, 32)


class IngestDetect(Section):
    """The detection set. source `none`: no such data; the stages that need it are skipped."""

    source: Literal["demo", "coco", "none"]
    root: Text
    val_fraction: Below1


class IngestSegment(Section):
    """The segmentation set. source `none`: no such data; the stages that need it are skipped.

    values: of label_maps, the value in the maps of each line of classes.txt; null: 0, 1, 2 ...
    """

    source: Literal["demo", "ade20k", "camvid", "label_maps", "none"]
    root: Text
    val_fraction: Below1
    values: Annotated[list[Annotated[int, Field(ge=0, le=65535)]], Field(min_length=1), Different] | None = (
        None
    )

    def faults(self) -> Iterator[str]:
        if self.values is not None and self.source != "label_maps":
            yield f"values {self.values}: source {self.source} has its own; set it to null"


class ShardAnnotated(Section):
    """Shards of annotated images, copied unscaled: scaling would have to scale their annotations too."""

    max_count: Positive
    max_bytes: Bytes
    max_rejected: CountOrShare
    bits: UsedBits | None = None


class WithoutPretraining(Section):
    """Settings of the baseline from random weights that differ; the budget of steps is the same."""

    base_lr: Rate
    layer_decay: LayerDecay


class Dense(Steps):
    """The settings of both dense tasks. inits: encoders to train from; the first one is registered."""

    inits: Annotated[list[Literal["pretrained", "scratch"]], Field(min_length=1), Different]
    steps: Positive
    warmup_steps: Count
    betas: Betas
    layer_decay: LayerDecay
    drop_path: Below1
    channels: Width
    flip: bool
    scratch: WithoutPretraining

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        for fault in beyond_adamw(self.scratch.base_lr, self.batch_size, self.weight_decay):
            yield f"scratch.{fault}"
        if self.warmup_steps >= self.steps:
            yield f"warmup_steps {self.warmup_steps} must be below steps {self.steps}"


class Detect(Dense):
    """Mask R-CNN on the encoder. Sizes in pixels.

    window: in patches. anchor_scale: an anchor's side over its level's stride. milestones: steps at which the
    rate falls tenfold. patch_size: the patch embedding is resampled to it (null: the encoder's own).
    max_objects: of a training image only its so many largest objects are used; masks and matching take memory
    for each.
    """

    image_size: Crop
    patch_size: Pixels | None
    jitter_scale: Factors
    window: Annotated[Positive, Field(le=512)]
    global_blocks: Annotated[list[Count], Different]
    box_convs: Depth
    box_dim: Width
    mask_convs: Depth
    anchor_scale: Width
    rois: Width
    proposals: Width
    detections: Width
    max_objects: Positive
    milestones: list[Positive]

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if sorted({*self.milestones, self.steps}) != [*self.milestones, self.steps]:
            yield f"milestones {self.milestones}: steps in ascending order, below steps {self.steps}"


class Segment(Dense):
    """UperNet or DPT on the encoder. Sizes in pixels.

    crop: the training crop and the sliding window. short: the image's shorter side before it is cropped or
    tested. stride: of the sliding window.
    """

    head: Literal["upernet", "dpt"]
    crop: Crop
    short: Crop
    stride: Pixels
    taps: list[Count]
    dropout: Below1
    auxiliary: Rate
    auxiliary_channels: Width
    ratio: Factors
    max_class_share: Annotated[float, Field(gt=0, le=1)]
    jitter: bool

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        if self.short < self.crop:
            yield f"short {self.short} is below crop {self.crop}: crops would be padded; raise short"
        if self.stride > self.crop:
            yield f"stride {self.stride} exceeds crop {self.crop}: windows would leave gaps"
        if self.head == "upernet" and self.batch_size // self.accumulate < 2:
            yield (
                f"batch_size {self.batch_size} in {self.accumulate} parts: the batch norms of upernet need 2 "
                "images at a time, or more"
            )


def check_detect(detect: Detect, encoder: Encoder) -> Iterator[str]:
    """Yield faults of a detector that cannot be built."""
    named, blocks, patch = detect.global_blocks, encoder.blocks, encoder.patch
    if blocks and max(named, default=0) >= blocks:
        yield f"detect.global_blocks {named}: the encoder's blocks are 0 to {blocks - 1}"
    if patch and patch[0] != patch[1] and detect.patch_size is None:
        yield f"encoder.patch_size {list(patch)}: detection needs squares; set detect.patch_size"


def check_segment(segment: Segment, encoder: Encoder) -> Iterator[str]:
    """Yield faults of a segmenter that cannot be built."""
    taps, blocks, patch = segment.taps, encoder.blocks, encoder.patch
    if len(taps) != TAPS or taps != sorted(taps) or (blocks and taps[-1] != blocks - 1) or _repeats(taps):
        message = f"segment.taps {taps}: name {TAPS} ascending blocks that end with the encoder's last"
        if blocks:
            message += f", {blocks - 1}; such as {[max(0, blocks * part // 4 - 1) for part in (1, 2, 3, 4)]}"
        yield message
    if segment.head == "dpt" and patch and (patch[0] != patch[1] or patch[0] not in DPT_PATCHES):
        yield (
            f"segment.head dpt needs square patches of {', '.join(map(str, DPT_PATCHES))} pixels, not of "
            f"{list(patch)}: set segment.head to upernet"
        )


def _repeats(taps: list[int]) -> bool:
    """Tell whether a block is named twice where there are others; four times the last is ViTDet's pyramid."""
    return 1 < len(set(taps)) < min(TAPS, taps[-1] + 1)
