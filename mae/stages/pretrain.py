"""The stage `pretrain`: shards in, an encoder out, with its curve and its reconstructions."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mae import config, distributed, interchange
from mae.config import Params
from mae.data.augmentations import augmentation
from mae.data.index import Split
from mae.data.plan import Plan
from mae.engine.cost import peak_memory, training_flops
from mae.engine.loop import Fitted, fit
from mae.engine.optim import adamw, scaled_lr, warmup_cosine
from mae.engine.randomness import seed_process
from mae.methods import METHODS
from mae.methods.method import Method
from mae.methods.pictures import COLUMNS, note, pictures
from mae.models import encoder as encoders
from mae.models.masking import masking
from mae.models.targets import build_target
from mae.stages.files import ENCODER, METHOD, REPORTS
from mae.stages.fitted import fitted_for, fitted_inputs, kept_tokens
from mae.stages.initial import method_config, take_up
from mae.stages.plots import panels, training_curve, write_csv
from mae.stages.session import PICTURES, Session, encoder_config, session
from mae.tasks.knn import online_probe
from mae.tasks.layers import top1_by_layer

SECTIONS = {"pretrain": ("input", "encoder", "pretrain")}  # and the method's own, which it names


def pretrain(params: Params) -> None:
    """Train the encoder without labels and write models/pretrain and reports/pretrain."""
    method = build_method(params)
    transform = _transform(params, method)
    origin = take_up(method, params)
    inputs = [*([origin.digest] if origin else []), *fitted_inputs(params)]
    sections = (*SECTIONS["pretrain"], params.pretrain.method)
    with session("pretrain", params, sections, inputs=inputs) as at_work:
        at_work.run.tags({"init": str(origin or "random weights")})
        p, train = params.pretrain, at_work.index.split("train")
        _check_classes(at_work, method)
        method.to(at_work.device)
        plan = Plan(train.shard_of, seed=params.seed)
        steps = plan.steps(p.epochs, p.batch_size)
        per_epoch = len(train) / p.batch_size
        warmup = round(p.warmup_epochs * per_epoch)
        fitted = fit(
            method,
            partial(_batches, at_work, train, method, *transform, steps),
            adamw(method, lr=scaled_lr(p.base_lr, p.batch_size), betas=p.betas, weight_decay=p.weight_decay),
            steps=steps,
            learning_rate=lambda step: warmup_cosine(
                step, peak=scaled_lr(p.base_lr, p.batch_size), floor=p.min_lr, warmup=warmup, total=steps
            ),
            seed=params.seed,
            device=at_work.device,
            accumulate=p.accumulate,
            precision=at_work.precision(p.precision),
            clip_grad=p.clip_grad,
            ema_decay=p.ema,
            checkpoints=at_work.checkpoints(),
            checkpoint_every=params.runtime.checkpoint_every,
            log=at_work.run.log,
            log_every=params.runtime.log_every,
            hooks=_probe(at_work, method, per_epoch),
            compile=p.compile,
            run_id=at_work.run.id,
        )
        layers = _probe_layers(at_work, fitted.ema or method)
        if distributed.is_main():
            _write(at_work, fitted.ema or method, fitted, steps, layers)


def build_method(params: Params) -> Any:
    """The method of params.pretrain on a fresh encoder, its weights fixed by the seed."""
    p = params.pretrain
    if p.method not in METHODS:
        raise config.InvalidParams(f"pretrain.method: {p.method!r} is not one of {', '.join(METHODS)}")
    seed_process(params.seed)
    encoder, kind = params.encoder, METHODS[p.method]
    vit = encoders.build(encoder.name, img_size=encoder.img_size, drop_path=p.drop_path, **encoder.overrides)
    settings = getattr(params, p.method).model_dump()
    if kind.masked:
        settings["masking"] = masking(p.mask, vit.patch_embed.grid_size, p.mask_ratio)
    if kind.predicts:
        colours = {"mean": params.input.mean, "std": params.input.std}
        settings["target"] = build_target(p.target, vit, fitted_for(params), **colours)
    return kind(vit, **settings)


def _transform(params: Params, method: Method) -> tuple[Any, int]:
    """What makes views of an image, and how often it is called for the method's."""
    p = params.pretrain
    size = params.encoder.img_size
    try:
        return augmentation(p.augment, size, views=method.views, scale=p.crop_scale, flip=p.flip)
    except ValueError as error:
        raise config.InvalidParams(f"pretrain.{error}") from error


def _check_classes(at_work: Session, method: Any) -> None:
    """A method that learns labels is told in params.yaml how many there are."""
    found = len(at_work.index.classes)
    if method.labels and method.num_classes != found:
        name = at_work.params.pretrain.method
        raise config.InvalidParams(
            f"{name}.num_classes is {method.num_classes}, but the shards have {found} classes: set it to that"
            + (", or choose a method that needs no labels" if not found else "")
        )


def _batches(
    at_work: Session,
    train: Split,
    method: Method,
    transform: Any,
    calls: int,
    steps: int,
    start: int,
    attempt: int,
) -> Iterator[tuple[Tensor, ...]]:
    """What method.forward takes, from step `start` on: views (n, C, H, W)[, labels][, noise][, kept].

    kept: tokens (n, L), where the stage `tokenizer` kept them.
    """
    p = at_work.params.pretrain
    batches = at_work.training_batches(
        train,
        transform,
        p,
        start=start,
        stop=steps,
        attempt=attempt,
        views=calls,
        noise_shape=method.noise_shape or None,
    )
    kept = kept_tokens(at_work.params, at_work.index) if method.predicts else None
    for batch in batches:
        views = batch["images"] if method.views > 1 else [batch["images"]]
        inputs = [at_work.normalize(view.to(at_work.device, non_blocking=True)) for view in views]
        more = [name for name, needed in (("labels", method.labels), ("noise", method.noise_shape)) if needed]
        if kept is not None:
            batch["kept"] = torch.from_numpy(kept.of(batch["rows"].numpy()))
            more.append("kept")
        inputs += [batch[name].to(at_work.device, non_blocking=True) for name in more]
        yield tuple(inputs)


def _probe(at_work: Session, method: Method, steps_per_epoch: float) -> dict[int, Any]:
    """The online kNN as a hook of `fit`, where there are labels to ask about."""
    params, index = at_work.params, at_work.index
    probe = params.pretrain.probe
    if not probe.every_epochs or not at_work.can_judge:
        return {}
    few = [index.split(name) for name in ("train", "val")]
    hook = online_probe(
        method.encoder,
        *(partial(at_work.evaluation_batches, split, samples=probe.samples) for split in few),
        num_classes=len(index.classes),
        normalize=at_work.normalize,
        device=at_work.device,
        precision=at_work.precision(params.pretrain.precision),
    )
    return {max(1, round(probe.every_epochs * steps_per_epoch)): hook}


def _probe_layers(at_work: Session, method: Any) -> list[float]:
    """Top-1 of a linear probe on each block of the trained encoder, on every rank; [] where none is asked."""
    probe = at_work.params.pretrain.probe
    if not probe.layers or not at_work.can_judge:
        return []
    few = [at_work.index.split(name) for name in ("train", "val")]
    return top1_by_layer(
        method.encoder,
        *(partial(at_work.evaluation_batches, split, samples=probe.samples) for split in few),
        causal=method.causal,
        normalize=at_work.normalize,
        device=at_work.device,
        precision=at_work.precision(at_work.params.pretrain.precision),
    )


def _write(at_work: Session, method: Any, fitted: Fitted, steps: int, layers: list[float]) -> None:
    """Models, metrics, curve and pictures, on rank 0. `method` holds the weights to keep."""
    params, reports = at_work.params, REPORTS / "pretrain"
    interchange.save_encoder(ENCODER, method.encoder.state_dict(), encoder_config(params))
    interchange.save_method(METHOD, method.state_dict(), method_config(params))
    reports.mkdir(parents=True, exist_ok=True)
    curve = at_work.curve(("loss", "lr", "grad_norm", "knn_top1", "images_per_second"))
    write_csv(reports / "curve.csv", curve)
    training_curve(reports / "curve.png", curve, title=f"Pretraining: {params.pretrain.method}")
    shown = pictures(method, *_samples(at_work, method), params.input.mean, params.input.std).cpu()
    panels(reports / "reconstructions.png", shown, COLUMNS[: shown.shape[1]], caption=note(method))
    for picture in ("curve.png", "reconstructions.png"):
        at_work.run.picture(reports / picture)
    losses = [row["loss"] for row in curve if "loss" in row]
    probes = [row["knn_top1"] for row in curve if "knn_top1" in row]
    rates = sorted(row["images_per_second"] for row in curve if "images_per_second" in row)
    at_work.write_metrics(
        {
            "loss": losses[-1],
            "first_loss": losses[0],
            "steps": steps,
            "samples": len(at_work.index.split("train")),
            "parameters": sum(p.numel() for p in method.encoder.parameters()),
            "images_per_second": rates[len(rates) // 2],
            **_cost(at_work, method),
            "attempts": fitted.attempt + 1,
            "pictures_note": note(method),
            **({"knn_top1": probes[-1]} if probes else {}),
            **({"layers_top1": layers} if layers else {}),
        }
    )
    for number, top1 in enumerate(layers, start=1):
        at_work.run.log(number, {"layers_top1": top1})  # over blocks, not steps


def _cost(at_work: Session, method: Any) -> dict[str, float]:
    """Bytes at most in use; operations of forward and backward per image, of a batch as a rank gets it."""
    p, embedding = at_work.params.pretrain, method.encoder.patch_embed
    count = p.batch_size // p.accumulate // distributed.world_size()
    shape = (count, method.encoder.in_chans, *embedding.img_size)
    inputs = [torch.empty(shape, device="meta") for _ in range(method.views)]
    inputs += [torch.empty(count, dtype=torch.int64, device="meta")] if method.labels else []
    inputs += [torch.empty(count, *method.noise_shape, device="meta")] if method.noise_shape else []
    if method.predicts and kept_tokens(at_work.params, at_work.index) is not None:
        inputs.append(torch.empty(count, embedding.num_patches, dtype=torch.int64, device="meta"))
    memory = peak_memory(at_work.device)
    return {"flops_per_image": training_flops(method, *inputs), "peak_memory": memory}


def _samples(at_work: Session, method: Any) -> tuple[Tensor, Tensor]:
    """A few images (N, C, H, W), normalised, and noise (N, L) by the seed."""
    batch = next(at_work.evaluation_batches(at_work.index.viewed, samples=PICTURES, alone=True))
    generator = torch.Generator().manual_seed(at_work.params.seed)
    noise = torch.rand(len(batch["images"]), *method.noise_shape, generator=generator)
    return at_work.normalize(batch["images"].to(at_work.device)), noise.to(at_work.device)
