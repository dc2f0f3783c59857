"""The stage `pretrain`: train an encoder on the shards without labels."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mae import config, distributed
from mae.config import Params
from mae.data.loading.epoch_order import EpochOrder
from mae.data.shards.index import Split
from mae.data.transforms.pretraining import augmentation
from mae.engine.loop import fit
from mae.engine.optim import adamw
from mae.engine.schedule import scaled_lr, warmup_cosine
from mae.evaluation.representation.layers import top1_by_layer
from mae.evaluation.representation.nearest_neighbours import online_probe
from mae.methods import METHODS
from mae.methods.method import Method
from mae.models import vit as encoders
from mae.models.masking import Masking, masking
from mae.models.patches import Pair
from mae.models.targets import build_target
from mae.randomness import seed_process
from mae.stages.context.stage_context import StageContext, open_stage
from mae.stages.pretraining.fitted_tokenizer import cached_tokens, fitted_for, fitted_inputs
from mae.stages.pretraining.initial_weights import load_initial_weights
from mae.stages.pretraining.pretrain_results import write_results


def pretrain(params: Params) -> None:
    """Train the encoder without labels and write models/pretrain and reports/pretrain."""
    method = build_method(params)
    transform = transform_of(params, method)
    origin = load_initial_weights(method, params)
    inputs = [*([origin.digest] if origin else []), *fitted_inputs(params)]
    with open_stage("pretrain", params, inputs=inputs) as ctx:
        ctx.run.tags({"init": str(origin or "random weights")})
        p, train = params.pretrain, ctx.index.split("train")
        method.to(ctx.device)
        plan = EpochOrder(train.shard_of, seed=params.seed)
        steps = plan.steps(p.epochs, p.batch_size)
        per_epoch = len(train) / p.batch_size
        warmup = round(p.warmup_epochs * per_epoch)
        fitted = fit(
            method,
            partial(_batches, ctx, train, method, *transform, steps),
            adamw(method, lr=scaled_lr(p.base_lr, p.batch_size), betas=p.betas, weight_decay=p.weight_decay),
            steps=steps,
            learning_rate=lambda step: warmup_cosine(
                step, peak=scaled_lr(p.base_lr, p.batch_size), floor=p.min_lr, warmup=warmup, total=steps
            ),
            options=ctx.fit_options(p),
            hooks=_probe(ctx, method, per_epoch),
        )
        layers = _probe_layers(ctx, fitted.ema or method)
        if distributed.is_main():
            write_results(ctx, fitted.ema or method, fitted, steps, layers)


def build_method(params: Params, fitted: nn.Module | None = None) -> Any:
    """Build the method of params.pretrain on a fresh encoder; the seed fixes the weights.

    fitted: the module that its target needs; by default that of the stage `tokenizer`.
    """
    p = params.pretrain
    seed_process(params.seed)
    encoder, kind = params.encoder, METHODS[p.method]
    vit = encoders.build(encoder.name, img_size=encoder.img_size, drop_path=p.drop_path, **encoder.overrides)
    settings = getattr(params, p.method).model_dump()
    if kind.masked:
        settings["masking"] = _masking(params, vit.patch_embed.grid_size)
    if kind.predicts:
        own = fitted_for(params) if fitted is None else fitted
        settings["target"] = build_target(p.target, vit, own, **params.input.numbers)
    return kind(vit, **settings)


def _masking(params: Params, grid: Pair) -> Masking:
    try:
        return masking(params.pretrain.mask, grid, params.pretrain.mask_ratio)
    except ValueError as error:
        raise config.InvalidParams(f"pretrain.{error}") from error


def transform_of(params: Params, method: Method) -> tuple[Any, int]:
    """Return the transform that makes views of an image, and the number of its calls per image."""
    p = params.pretrain
    size = params.encoder.img_size
    return augmentation(p.augment, size, views=method.views, scale=p.crop_scale, flip=p.flip)


def _batches(
    ctx: StageContext,
    train: Split,
    method: Method,
    transform: Any,
    calls: int,
    steps: int,
    start: int,
    attempt: int,
) -> Iterator[tuple[Tensor, ...]]:
    """Yield method.forward's inputs from step `start` on: views (n, C, H, W)[, labels][, noise][, cached].

    cached: tokens (n, L) from the cache of the stage `tokenizer`, if it has one.
    """
    p = ctx.params.pretrain
    batches = ctx.training_batches(
        train,
        transform,
        p,
        start=start,
        stop=steps,
        attempt=attempt,
        views=calls,
        noise_shape=method.noise_shape or None,
    )
    tokens = cached_tokens(ctx.params, ctx.index) if method.predicts else None
    for batch in batches:
        views = batch["images"] if method.views > 1 else [batch["images"]]
        inputs = [ctx.normalize(view.to(ctx.device, non_blocking=True)) for view in views]
        more = [name for name, needed in (("labels", method.labels), ("noise", method.noise_shape)) if needed]
        if tokens is not None:
            batch["cached"] = torch.from_numpy(tokens.of(batch["rows"].numpy()))
            more.append("cached")
        inputs += [batch[name].to(ctx.device, non_blocking=True) for name in more]
        yield tuple(inputs)


def _probe(ctx: StageContext, method: Method, steps_per_epoch: float) -> dict[int, Any]:
    """Return the online kNN as a hook of `fit`; nothing without labels."""
    params, index = ctx.params, ctx.index
    probe = params.pretrain.probe
    if not probe.every_epochs or not ctx.can_evaluate:
        return {}
    few = [index.split(name) for name in ("train", "val")]
    hook = online_probe(
        method.encoder,
        *(partial(ctx.evaluation_batches, split, samples=probe.samples) for split in few),
        num_classes=len(index.classes),
        normalize=ctx.normalize,
        device=ctx.device,
        precision=ctx.precision(params.pretrain.precision),
    )
    return {max(1, round(probe.every_epochs * steps_per_epoch)): hook}


def _probe_layers(ctx: StageContext, method: Any) -> list[float]:
    """Evaluate a linear probe on each block of the trained encoder, on every rank; [] without probes."""
    probe = ctx.params.pretrain.probe
    if not probe.layers or not ctx.can_evaluate:
        return []
    few = [ctx.index.split(name) for name in ("train", "val")]
    return top1_by_layer(
        method.encoder,
        *(partial(ctx.evaluation_batches, split, samples=probe.samples) for split in few),
        causal=method.causal,
        normalize=ctx.normalize,
        device=ctx.device,
        precision=ctx.precision(ctx.params.pretrain.precision),
    )
