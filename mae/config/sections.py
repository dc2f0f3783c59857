"""The sections of `params.yaml` for images, classification and the registry."""

from collections.abc import Iterator
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mae.addresses import holds_password, redact_address
from mae.config.values import (
    Above0,
    Below1,
    Betas,
    Bytes,
    Colour,
    Count,
    CountOrShare,
    Decay,
    Different,
    Fraction,
    LayerDecay,
    ModelName,
    Pixels,
    Positive,
    Precision,
    RandAugment,
    Rate,
    Shares,
    Spread,
    Temperature,
    Text,
    UsedBits,
)


class Faults(ValueError):
    """Settings of a section that do not go together; each text begins with the key."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


def _without_password(uri: Any) -> Any:
    """Refuse it before any other check does, whose message would show it."""
    if isinstance(uri, str) and holds_password(uri.strip()):
        raise ValueError(
            f"{redact_address(uri.strip())}: has a password or token, and git keeps params.yaml; set "
            "the variable MLFLOW_TRACKING_URI to the address with it, and leave the address without it here"
        )
    return uri


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="after")
    def _goes_together(self) -> "Section":
        if faults := list(self.faults()):
            raise Faults(faults)
        return self

    def faults(self) -> Iterator[str]:
        """Yield what does not go together, where each value alone is valid."""
        yield from ()


class Runtime(Section):
    """Device, workers, tracking and checkpoints of a run.

    Nothing here changes a result, so no DVC stage depends on it.
    """

    device: Literal["auto", "cpu", "cuda"]
    workers: Count
    work_dir: Text
    tracking_uri: Annotated[Text, BeforeValidator(_without_password)]
    experiment: Annotated[Text, Field(max_length=250)]
    log_every: Positive
    checkpoint_every: Positive
    keep_checkpoints: Positive


Scened = Annotated[Count, Field(ge=10)]  # one of each class of the demo
Side = Annotated[int, Field(ge=16, le=1024)]  # pixels; as data/demo/scenes.py


class Scenes(Section):
    """Number of the demo's scenes, their side in pixels, and their digits in rows x rows cells."""

    train: Scened
    val: Scened
    size: Side
    rows: Positive

    def faults(self) -> Iterator[str]:
        if self.rows > self.size // 8:
            yield f"rows {self.rows}: at size {self.size} choose 1 to {self.size // 8}"


class Demo(Section):
    """The images of the embedded demo: one class each, and larger scenes for the dense tasks."""

    train: Scened
    val: Scened
    size: Side
    detect: Scenes
    segment: Scenes


class Ingest(Section):
    source: Literal[
        "demo", "folder", "imagenet_tar", "flat", "inat2017", "inat2018", "inat2019", "places205", "places365"
    ]
    root: Text
    val_fraction: Below1


class Shard(Section):
    max_count: Positive
    max_bytes: Bytes
    max_side: Pixels | None
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
    clip_grad: Above0 | None
    compile: bool

    def faults(self) -> Iterator[str]:
        if self.batch_size % self.accumulate:
            yield f"batch_size {self.batch_size} is not divisible by accumulate {self.accumulate}"
        if hasattr(self, "betas"):
            yield from beyond_adamw(self.base_lr, self.batch_size, self.weight_decay)


def beyond_adamw(base_lr: float, batch_size: int, weight_decay: float) -> Iterator[str]:
    """Yield faults of rates under which AdamW cannot learn: it moves each weight by about the lr."""
    peak = base_lr * batch_size / 256
    if peak > 1:
        yield (
            f"base_lr {base_lr:g} * batch_size {batch_size} / 256 is a highest lr of {peak:g}: AdamW learns "
            "nothing above 1; lower base_lr"
        )
    elif peak * weight_decay >= 1:
        yield f"weight_decay {weight_decay:g} at lr {peak:g} removes whole weights in a step; lower it"


class Training(Steps):
    """A training measured in epochs."""

    min_lr: Rate
    warmup_epochs: Rate

    def faults(self) -> Iterator[str]:
        yield from super().faults()
        epochs = getattr(self, "epochs", None)
        shortest = min(epochs) if isinstance(epochs, list) else epochs
        if shortest is not None and self.warmup_epochs >= shortest:
            yield f"warmup_epochs {self.warmup_epochs:g} must be below epochs {shortest}"
        peak = self.base_lr * self.batch_size / 256  # as engine/schedule.py scales it
        if self.min_lr > peak:
            yield (
                f"min_lr {self.min_lr:g} is above the highest lr, base_lr {self.base_lr:g} * batch_size "
                f"{self.batch_size} / 256 = {peak:g}: the rate would rise to it; lower min_lr"
            )


class KNN(Section):
    """Nearest neighbours. projection: of patch embeddings into two dimensions, for a picture."""

    k: Positive
    temperature: Temperature
    pool: Literal["avg", "token"]
    projection: Literal["pca", "tsne"]
    random_baseline: bool


class Probe(Training):
    """A head on a frozen encoder. random_baseline: evaluate the same encoder with random weights too."""

    epochs: Positive
    random_baseline: bool
    momentum: Below1
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

    blocks: Annotated[
        list[Annotated[float, Field(ge=0, le=128, multiple_of=0.5)]], Field(min_length=1), Different
    ]
    epochs: Annotated[list[Positive], Field(min_length=1), Different]


class Robustness(Section):
    """Variants of ImageNet for the fine-tuned classifier; `root` holds their unpacked folders."""

    sets: Annotated[list[Literal["imagenet_c", "imagenet_a", "imagenet_r", "imagenet_sketch"]], Different]
    root: Text
    batch_size: Positive
    precision: Precision


class Registry(Section):
    """Names of the registered models, and the gate's demands on a challenger."""

    encoder: ModelName
    classifier: ModelName
    detector: ModelName
    segmenter: ModelName
    min_gain: Fraction
    confidence: Decay

    def faults(self) -> Iterator[str]:
        kinds = ("encoder", "classifier", "detector", "segmenter")
        for one, other in combinations(kinds, 2):
            if getattr(self, one).lower() == getattr(self, other).lower():  # some databases ignore case
                yield f"{other} {getattr(self, other)} is also the name of {one}: give each model its own"


class Report(Section):
    title: Text
