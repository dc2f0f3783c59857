"""The sections of `params.yaml` for images, classification and the registry."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from mae.addresses import holds_password, redact_address
from mae.config.values import (
    Below1,
    Betas,
    Colour,
    Count,
    CountOrShare,
    Decay,
    Fraction,
    LayerDecay,
    Positive,
    Precision,
    RandAugment,
    Rate,
    Shares,
    Spread,
    UsedBits,
)


def _without_password(uri: str) -> str:
    if holds_password(uri):
        raise ValueError(
            f"{redact_address(uri)}: has a password or token, and git keeps params.yaml; set the variable "
            "MLFLOW_TRACKING_URI to the address with it, and leave the address without it here"
        )
    return uri


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Runtime(Section):
    """Device, workers, tracking and checkpoints of a run.

    Nothing here changes a result, so no DVC stage depends on it.
    """

    device: Literal["auto", "cpu", "cuda"]
    workers: Count
    work_dir: str
    tracking_uri: Annotated[str, AfterValidator(_without_password)]
    experiment: str
    log_every: Positive
    checkpoint_every: Positive
    keep_checkpoints: Positive


class Scenes(Section):
    """Number of the demo's scenes, their side in pixels, and their digits in rows x rows cells."""

    train: Positive
    val: Positive
    size: Positive
    rows: Positive


class Demo(Section):
    """The images of the embedded demo: one class each, and larger scenes for the dense tasks."""

    train: Positive
    val: Positive
    size: Positive
    detect: Scenes
    segment: Scenes


class Ingest(Section):
    source: Literal[
        "demo", "folder", "imagenet_tar", "flat", "inat2017", "inat2018", "inat2019", "places205", "places365"
    ]
    root: str
    val_fraction: Below1


class Shard(Section):
    max_count: Positive
    max_bytes: Positive
    max_side: Positive | None
    quality: Annotated[int, Field(ge=1, le=100)]
    bits: UsedBits | None = None
    max_rejected: CountOrShare


class Input(Section):
    """Colour statistics in 0..1, channel by channel. auto: measured from the training shards by a stage."""

    mean: Colour
    std: Spread

    @property
    def is_auto(self) -> bool:
        """True where a statistic is not measured yet."""
        return "auto" in (self.mean, self.std)

    @property
    def numbers(self) -> dict[str, list[float]]:
        """Return mean and std. Raises ValueError before they are measured."""
        if self.is_auto:
            raise ValueError("input.mean or input.std is auto: it is measured where a stage begins")
        return {"mean": [*map(float, self.mean)], "std": [*map(float, self.std)]}


class Steps(Section):
    """The settings of every training. batch_size: of all devices and accumulated steps together."""

    batch_size: Positive
    accumulate: Positive
    base_lr: Rate
    weight_decay: Rate
    precision: Precision
    clip_grad: Annotated[float, Field(gt=0)] | None
    compile: bool

    @model_validator(mode="after")
    def _accumulates_evenly(self) -> "Steps":
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not divisible by accumulate {self.accumulate}")
        return self


class Training(Steps):
    """A training measured in epochs."""

    min_lr: Rate
    warmup_epochs: Rate

    @model_validator(mode="after")
    def _warms_up_before_the_end(self) -> "Training":
        epochs = getattr(self, "epochs", None)
        shortest = min(epochs) if isinstance(epochs, list) else epochs
        if shortest is not None and self.warmup_epochs >= shortest:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be below epochs {shortest}")
        return self


class KNN(Section):
    """Nearest neighbours. projection: of patch embeddings into two dimensions, for a picture."""

    k: Positive
    temperature: Annotated[float, Field(gt=0)]
    pool: Literal["avg", "token"]
    projection: Literal["pca", "tsne"]
    random_baseline: bool


class Probe(Training):
    """A head on a frozen encoder. random_baseline: evaluate the same encoder with random weights too."""

    epochs: Positive
    random_baseline: bool
    momentum: Fraction
    flip: bool
    labels_per_class: Positive | None


class Linear(Probe):
    """The linear probe. pool: class token (the paper's) or mean of the patch tokens. LARS decays nothing."""

    pool: Literal["token", "avg"]
    weight_decay: Annotated[float, Field(ge=0, le=0)]


class Augmented(Training):
    """The settings of trainings that change the encoder."""

    betas: Betas
    layer_decay: LayerDecay
    drop_path: Below1
    crop_scale: Shares
    flip: bool
    rand_augment: RandAugment | None
    random_erasing: Fraction
    mixup: Rate
    cutmix: Rate
    smoothing: Below1
    ema: Decay | None
    labels_per_class: Positive | None


class FineTune(Augmented):
    epochs: Positive


class Partial(Augmented):
    """A training for each of `blocks` (0.5: the MLP of the last) and `epochs`; the best epochs count."""

    blocks: Annotated[list[Annotated[float, Field(ge=0, multiple_of=0.5)]], Field(min_length=1)]
    epochs: Annotated[list[Positive], Field(min_length=1)]


class Robustness(Section):
    """Variants of ImageNet for the fine-tuned classifier; `root` holds their unpacked folders."""

    sets: list[Literal["imagenet_c", "imagenet_a", "imagenet_r", "imagenet_sketch"]]
    root: str
    batch_size: Positive
    precision: Precision

    @model_validator(mode="after")
    def _names_each_set_once(self) -> "Robustness":
        if len(set(self.sets)) != len(self.sets):
            raise ValueError(f"sets {self.sets} names one twice")
        return self


class Registry(Section):
    """Names of the registered models, and the gate's demands on a challenger."""

    encoder: str
    classifier: str
    detector: str
    segmenter: str
    min_gain: Fraction
    confidence: Decay


class Report(Section):
    title: str
