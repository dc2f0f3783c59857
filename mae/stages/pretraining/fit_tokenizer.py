"""The fits of the stage `tokenizer`: FSQ by training, k-means by mini-batches, components in one pass."""

import logging
import shutil
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mae import config, distributed, interchange
from mae.config import Params, Tokenizer
from mae.config.paths import TOKENIZER, TOKENS
from mae.data.loading.batches import evaluation_batches
from mae.data.loading.epoch_order import EpochOrder
from mae.data.loading.token_cache import cache_tokens, missing
from mae.data.shards.index import Split
from mae.data.transforms import image as transforms
from mae.data.transforms.pretraining import augmentation
from mae.engine.loop import Fitted, fit
from mae.engine.optim import adamw, sgd
from mae.engine.schedule import scaled_lr, warmup_cosine
from mae.files import copy
from mae.models import vit as encoders
from mae.models.patches import patchify
from mae.models.pca import Moments
from mae.models.tokenizer import build_tokenizer
from mae.progress import Progress
from mae.randomness import seed_process
from mae.stages.context.stage_context import StageContext, open_stage
from mae.stages.pretraining.fitted_tokenizer import tokenizer_config
from mae.stages.pretraining.tokenizer_results import write_results

SETTINGS = {
    "fsq": ("levels", "width", "depth"),
    "kmeans": ("codes",),
    "palette": ("codes",),
    "pca": ("components",),
}
_VECTORS = 4  # for each centre that k-means begins with
_log = logging.getLogger("mae.stages")


def fit_tokenizer(params: Params) -> None:
    """Fit the kind of params.tokenizer, evaluate it on val, cache tokens if wanted, write the results."""
    with open_stage("tokenizer", params) as ctx:
        given = params.tokenizer
        about = unfitted_config(params) | ({"shards": ctx.index.digest} if given.cache else {})
        seed_process(params.seed)
        try:
            tokenizer = build_tokenizer(about).to(ctx.device)
        except ValueError as error:
            raise config.InvalidParams(f"tokenizer: {error}") from None
        steps = EpochOrder(ctx.index.split("train").shard_of, seed=params.seed).steps(
            given.epochs, given.batch_size
        )
        fitted = None
        if given.kind == "pca":
            _components(ctx, tokenizer, steps)
        else:
            fitted = _train(ctx, tokenizer, steps)
        tokenizer.eval()
        if given.cache:
            _cache(ctx, tokenizer)
        if distributed.is_main():
            interchange.save_weights(TOKENIZER, tokenizer.state_dict(), about)
        write_results(ctx, tokenizer, steps, fitted)


def unfitted_config(params: Params) -> dict[str, Any]:
    """Return the config of the tokenizer that these parameters ask for; `build_tokenizer` builds from it."""
    given, encoder = params.tokenizer, params.encoder
    with torch.device("meta"):
        vit = encoders.build(encoder.name, img_size=encoder.img_size, **encoder.overrides)
    grid, patch_size = vit.patch_embed.grid_size, vit.patch_embed.patch_size
    settings = given.model_dump(include=set(SETTINGS[given.kind]))
    return tokenizer_config(given.kind, grid, patch_size, vit.in_chans, settings)


def _batches(
    ctx: StageContext, steps: int, start: int, attempt: int, *, alone: bool = False
) -> Generator[tuple[Tensor], None, None]:
    """Yield images (n, C, H, W), augmented like pretraining's crops and normalised, on the device."""
    params, given = ctx.params, ctx.params.tokenizer
    batches = ctx.training_batches(
        ctx.index.split("train"),
        transforms.pretraining(params.encoder.img_size, scale=given.crop_scale, flip=given.flip),
        given.model_copy(update={"accumulate": _accumulate(given)}),
        start=start,
        stop=steps,
        attempt=attempt,
        alone=alone,
    )
    for batch in batches:
        yield (ctx.normalize(batch["images"].to(ctx.device, non_blocking=True)),)


def _accumulate(given: Tokenizer) -> int:
    """Return the batches per step: only FSQ holds activations; other kinds take all images at once."""
    return given.accumulate if given.kind == "fsq" else 1


def _train(ctx: StageContext, tokenizer: Any, steps: int) -> Fitted:
    """Train by `fit`: FSQ with AdamW and its settings, k-means with rates from 1 (Lloyd's step) down to 0."""
    given, options = ctx.params.tokenizer, ctx.fit_options(ctx.params.tokenizer)
    if given.kind == "fsq":
        peak, floor = scaled_lr(given.base_lr, given.batch_size), given.min_lr
        warmup = round(given.warmup_epochs * steps / given.epochs)
        optimizer: torch.optim.Optimizer = adamw(
            tokenizer, lr=peak, betas=given.betas, weight_decay=given.weight_decay
        )
    else:
        peak, floor, warmup = 1.0, 0.0, 0
        optimizer = sgd(tokenizer, lr=peak, momentum=0.0)
        options = replace(options, accumulate=_accumulate(given), precision="fp32", clip_grad=None)
        if ctx.checkpoints().latest() is None:
            _start(ctx, tokenizer, steps)
    return fit(
        tokenizer,
        partial(_batches, ctx, steps),
        optimizer,
        steps=steps,
        learning_rate=lambda step: warmup_cosine(step, peak=peak, floor=floor, warmup=warmup, total=steps),
        options=options,
    )


def _start(ctx: StageContext, tokenizer: Any, steps: int) -> None:
    """Choose centres from a few vectors for each, of the first batches, which every rank reads in full."""
    wanted = _VECTORS * tokenizer.num_codes
    generator = torch.Generator().manual_seed(ctx.params.seed)
    found: list[Tensor] = []
    batches = _batches(ctx, steps, 0, 0, alone=True)
    for (images,) in batches:
        vectors = tokenizer.vectors(images).flatten(0, 1)
        # A share of each batch: the vectors of one image are similar.
        few = torch.randperm(len(vectors), generator=generator)[: max(1, len(vectors) // 2)]
        found.append(vectors[few.to(vectors.device)])
        if sum(map(len, found)) >= wanted:
            break
    batches.close()
    _log.info("choosing %d centres of %d vectors", tokenizer.num_codes, sum(map(len, found)))
    tokenizer.start(torch.cat(found)[:wanted], ctx.params.seed)


def _components(ctx: StageContext, tokenizer: Any, steps: int) -> None:
    """Compute the components in one pass; an interrupted pass starts again."""
    moments = Moments(tokenizer.components.shape[1], ctx.device)
    progress = Progress(steps, _log.info, verb="analysed", unit="batches")
    for (images,) in _batches(ctx, steps, 0, 0):
        moments.add(patchify(images, tokenizer.patch_size).flatten(0, 1))
        progress.add(1)
    moments.sums = distributed.mean(moments.sums)
    tokenizer.take(moments)


def _cache(ctx: StageContext, tokenizer: Any) -> None:
    """Cache the tokens of every training image, in the one view that pretraining will use.

    Ranks share the shards; a shard that an interrupted run finished is not computed again.
    """
    split, folder = ctx.index.split("train"), ctx.folder / "checkpoints" / "tokens"
    rows = missing(folder, split, distributed.rank(), distributed.world_size())
    for name in cache_tokens(folder, split, _tokens(ctx, tokenizer, split, rows)):
        _log.info("cached the tokens of %s", name)
    distributed.barrier()
    if distributed.is_main():
        shutil.copytree(folder, TOKENS, dirs_exist_ok=True, copy_function=copy)


@torch.no_grad()
def _tokens(
    ctx: StageContext, tokenizer: Any, split: Split, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (rows (n,), codes (n, L)) of these rows of the split, in order."""
    progress = Progress(len(rows), _log.info, verb="tokenized")
    batches = evaluation_batches(
        split,
        augmentation("none", ctx.params.encoder.img_size, flip=False)[0],
        rows=rows,
        batch_size=256,
        workers=ctx.params.runtime.workers,
        max_skipped=ctx.max_skipped,
    )
    for batch in batches:
        images = ctx.normalize(batch["images"].to(ctx.device, non_blocking=True))
        yield batch["rows"].numpy(), tokenizer.encode(images).cpu().numpy()
        progress.add(len(batch["rows"]))
