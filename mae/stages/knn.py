"""The stage `knn`: evaluate frozen features by nearest neighbours; draw the encoder's attention."""

from typing import Any

import torch
from torch import Tensor

from mae import distributed, interchange
from mae.config import Params
from mae.config.paths import ENCODER, REPORTS
from mae.evaluation.classification.accuracy import Evaluation
from mae.evaluation.classification.classifier import build_classifier
from mae.evaluation.representation.attention_maps import attention_maps, centre_share
from mae.evaluation.representation.nearest_neighbours import Features, evaluate_by_neighbours, extract
from mae.evaluation.representation.projection import project
from mae.models.vit import encode
from mae.report.plots.panels import heat, panels
from mae.report.plots.scatter import scatter
from mae.stages.context.stage_context import PICTURES, StageContext, open_stage
from mae.stages.probing import probe_results
from mae.stages.probing.frozen_probe import RANDOM
from mae.stages.probing.train_probe import Encoder

SHOWN = {"pretrained": "pretrained", RANDOM: "random init"}
EMBEDDED = 40  # images whose patches are projected


def knn(params: Params) -> None:
    """Evaluate frozen features by weighted nearest neighbours; draw attention maps and projected patches."""
    with open_stage("knn", params, encoder_file=ENCODER) as ctx:
        encoders = {"pretrained": _vit(ctx, Encoder.read())}
        if params.knn.random_baseline:
            encoders[RANDOM] = _vit(ctx, Encoder.read().at_random())
        centre = _pictures(ctx, encoders) if distributed.is_main() else {}
        if probe_results.skip(ctx):
            return
        evaluations = {name: _neighbours(ctx, vit) for name, vit in encoders.items()}
        ctx.write_metrics(probe_results.against_random(evaluations, params.seed) | centre)


def _vit(ctx: StageContext, encoder: Encoder) -> Any:
    arguments = interchange.encoder_arguments(encoder.config)
    seed = ctx.params.seed
    vit = build_classifier("linear", arguments, 1, encoder_state=encoder.state, seed=seed).encoder
    return vit.to(ctx.device)


def _neighbours(ctx: StageContext, vit: Any) -> Evaluation:
    params, index = ctx.params, ctx.index

    def features(split: str) -> Features:
        return extract(
            vit,
            ctx.evaluation_batches(index.split(split)),
            normalize=ctx.normalize,
            pool=params.knn.pool,
            device=ctx.device,
            precision=ctx.precision("auto"),
        )

    return evaluate_by_neighbours(
        features("train"),
        features("val"),
        num_classes=len(index.classes),
        k=params.knn.k,
        temperature=params.knn.temperature,
    )


def _pictures(ctx: StageContext, encoders: dict[str, Any]) -> dict[str, float]:
    """Draw attention.png and projection.png; return the mean share of attention on the middle quarter."""
    folder, pool = REPORTS / "knn", ctx.params.knn.pool
    folder.mkdir(parents=True, exist_ok=True)
    batch, images = _images(ctx, PICTURES)
    maps = {name: attention_maps(vit, images, pool) for name, vit in encoders.items()}
    shown = [batch["images"].float() / 255]
    shown += [heat(one.cpu(), images.shape[2:]) for one in maps.values()]
    whose = "the class token's" if pool == "token" else "all patches'"
    columns = ("original", *(SHOWN[name] for name in maps))
    caption = f"{whose} attention in the last block, mean over heads; bright: much"
    panels(folder / "attention.png", torch.stack(shown, 1), columns, caption=caption)
    _project(ctx, encoders)
    for picture in ("attention.png", "projection.png"):
        ctx.run.picture(folder / picture)
    prefixes = {"pretrained": "", RANDOM: "random_"}
    return {f"{prefixes[n]}attention_centre": float(centre_share(m).mean()) for n, m in maps.items()}


@torch.no_grad()
def _project(ctx: StageContext, encoders: dict[str, Any]) -> None:
    """Draw patch tokens of some images in two dimensions, coloured by the class of their image."""
    params, classes = ctx.params, ctx.index.classes
    batch, images = _images(ctx, EMBEDDED)
    points = {}
    for name, vit in encoders.items():
        tokens = encode(vit.eval(), images)[:, 1:].float().cpu()
        flat = tokens.flatten(0, 1).numpy()
        points[SHOWN[name]] = project(flat, params.knn.projection, params.seed)
    labels = batch["labels"].repeat_interleave(tokens.shape[1]).numpy() if classes else None
    title = f"Patch embeddings of {len(images)} images ({params.knn.projection})"
    scatter(REPORTS / "knn" / "projection.png", points, labels, classes, title=title)


def _images(ctx: StageContext, count: int) -> tuple[dict[str, Any], Tensor]:
    """Return a batch of `count` images, and its images normalised on the device."""
    batch = next(ctx.evaluation_batches(ctx.index.viewed, samples=count, alone=True))
    return batch, ctx.normalize(batch["images"].to(ctx.device))
