"""A training with labels by one row of PROTOCOLS, with the settings of a stage."""

import dataclasses
from collections.abc import Iterator
from functools import partial as bind
from typing import Any

import numpy as np

from mae import config, interchange
from mae.config.paths import CLASSIFIER, ENCODER, require
from mae.data.loading.epoch_order import EpochOrder
from mae.data.transforms.image import Transform
from mae.evaluation.classification.accuracy import Evaluation, evaluate
from mae.evaluation.classification.classifier import Classifier, build_classifier, train_classifier
from mae.evaluation.classification.protocols import PROTOCOLS, Recipe, make_augmentation
from mae.stages.context.stage_context import StageContext, encoder_config

Settings = config.Probe | config.FineTune


class Encoder:
    """The encoder to evaluate: its config and its weights (None: MAE's random initialisation)."""

    def __init__(self, config: dict[str, Any], state: dict[str, Any] | None) -> None:
        self.config, self.state = config, state

    @classmethod
    def read(cls) -> "Encoder":
        state, config = interchange.load_encoder(require(ENCODER))
        return cls(config, state)

    def at_random(self) -> "Encoder":
        return Encoder(self.config, None)


def train(
    ctx: StageContext,
    protocol: str,
    settings: Settings,
    *,
    name: str = "",
    blocks: float | None = None,
    random: bool = False,
) -> tuple[Classifier, Evaluation]:
    """Train a classifier by one row of PROTOCOLS and evaluate it on all of val."""
    params = ctx.params
    split = ctx.index.split("train")
    few = settings.labels_per_class
    rows = np.arange(len(split)) if few is None else split.subset(few, params.seed)
    steps = EpochOrder(split.shard_of[rows], seed=params.seed).steps(settings.epochs, settings.batch_size)
    classifier = _classifier(ctx, protocol, settings, blocks=blocks, random=random)
    recipe = _recipe(settings)
    augmentation = make_augmentation(PROTOCOLS[protocol], ctx.img_size, recipe, ctx.encoder["mean"])
    train_classifier(
        classifier,
        bind(_batches, ctx, settings, augmentation, rows, steps),
        recipe=recipe,
        steps=steps,
        warmup_steps=round(settings.warmup_epochs * len(rows) / settings.batch_size),
        global_batch=settings.batch_size,
        normalize=ctx.normalize,
        options=ctx.fit_options(settings, name),
    )
    return classifier, _evaluate(ctx, classifier, ctx.precision(settings.precision))


def _classifier(
    ctx: StageContext, protocol: str, settings: Settings, *, blocks: float | None, random: bool
) -> Classifier:
    params = ctx.params
    pretrained = PROTOCOLS[protocol].pretrained
    encoder = Encoder.read() if pretrained else Encoder(encoder_config(params), None)
    return build_classifier(
        protocol,
        interchange.encoder_arguments(encoder.config),
        len(ctx.index.classes),
        encoder_state=None if random else encoder.state,
        blocks=blocks,
        drop_path=getattr(settings, "drop_path", 0.0),
        seed=params.seed,
    )


def _batches(
    ctx: StageContext,
    settings: Settings,
    augmentation: Transform,
    rows: np.ndarray,
    steps: int,
    start: int,
    attempt: int,
) -> Iterator[dict[str, Any]]:
    return ctx.training_batches(
        ctx.index.split("train"), augmentation, settings, start=start, stop=steps, attempt=attempt, rows=rows
    )


def _recipe(settings: Settings) -> Recipe:
    """Fill a Recipe from `settings`; the numbers that a section lacks concern other protocols."""
    known = {field.name for field in dataclasses.fields(Recipe)}
    return Recipe(**{name: value for name, value in settings.model_dump().items() if name in known})


def _evaluate(ctx: StageContext, classifier: Classifier, precision: str) -> Evaluation:
    return evaluate(
        classifier,
        ctx.evaluation_batches(ctx.index.split("val")),
        len(ctx.index.classes),
        normalize=ctx.normalize,
        device=ctx.device,
        precision=precision,
    )


def save_classifier(ctx: StageContext, classifier: Classifier) -> None:
    """Write one file for `timm.create_model(..., global_pool="avg", num_classes=K)`, in timm's names."""
    weights = {**classifier.encoder.state_dict()}
    weights |= {f"head.{name}": value for name, value in classifier.head.state_dict().items()}
    about = Encoder.read().config | {"classes": ctx.index.classes, "pool": "avg"}
    interchange.save_weights(CLASSIFIER, weights, about)
