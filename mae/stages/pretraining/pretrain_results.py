"""The results of the stage `pretrain`: encoder and method files, metrics with cost, curve and pictures."""

from typing import Any

import torch
from torch import Tensor

from mae import distributed, interchange
from mae.config.paths import ENCODER, METHOD, REPORTS
from mae.engine.cost import peak_memory, training_flops
from mae.engine.loop import Fitted
from mae.files import write_csv
from mae.methods.pictures import pictures
from mae.report.plots.curves import training_curve
from mae.report.plots.panels import panels
from mae.stages.context.stage_context import PICTURES, StageContext, encoder_config
from mae.stages.pretraining.fitted_tokenizer import cached_tokens
from mae.stages.pretraining.initial_weights import method_config


def write_results(ctx: StageContext, method: Any, fitted: Fitted, steps: int, layers: list[float]) -> None:
    """Write models/pretrain and reports/pretrain, on rank 0; `method` holds the weights to save."""
    params, reports = ctx.params, REPORTS / "pretrain"
    interchange.save_encoder(ENCODER, method.encoder.state_dict(), encoder_config(params))
    interchange.save_weights(METHOD, method.state_dict(), method_config(params))
    reports.mkdir(parents=True, exist_ok=True)
    curve = ctx.curve(("loss", "lr", "grad_norm", "knn_top1", "images_per_second"))
    write_csv(reports / "curve.csv", curve)
    training_curve(reports / "curve.png", curve, title=f"Pretraining: {params.pretrain.method}")
    shown = pictures(method, *_samples(ctx, method), *params.input.numbers.values())
    panels(reports / "reconstructions.png", shown.panels.cpu(), shown.columns, caption=method.picture_note)
    for picture in ("curve.png", "reconstructions.png"):
        ctx.run.picture(reports / picture)
    losses = [row["loss"] for row in curve if "loss" in row]
    probes = [row["knn_top1"] for row in curve if "knn_top1" in row]
    rates = sorted(row["images_per_second"] for row in curve if "images_per_second" in row)
    ctx.write_metrics(
        {
            "loss": losses[-1],
            "first_loss": losses[0],
            "steps": steps,
            "samples": len(ctx.index.split("train")),
            "parameters": sum(p.numel() for p in method.encoder.parameters()),
            "images_per_second": rates[len(rates) // 2],
            **_cost(ctx, method),
            "attempts": fitted.attempt + 1,
            "pictures_note": method.picture_note,
            "pictures_split": ctx.index.viewed.name,
            **method.describe(),
            **({"knn_top1": probes[-1]} if probes else {}),
            **({"layers_top1": layers} if layers else {}),
        }
    )
    for number, top1 in enumerate(layers, start=1):
        ctx.run.log(number, {"layers_top1": top1})  # over blocks, not steps


def _cost(ctx: StageContext, method: Any) -> dict[str, float]:
    """Measure the peak memory, and the operations of forward and backward per image of a rank's batch."""
    p, embedding = ctx.params.pretrain, method.encoder.patch_embed
    count = p.batch_size // p.accumulate // distributed.world_size()
    shape = (count, method.encoder.in_chans, *embedding.img_size)
    inputs = [torch.empty(shape, device="meta") for _ in range(method.views)]
    inputs += [torch.empty(count, dtype=torch.int64, device="meta")] if method.labels else []
    inputs += [torch.empty(count, *method.noise_shape, device="meta")] if method.noise_shape else []
    if method.predicts and cached_tokens(ctx.params, ctx.index) is not None:
        inputs.append(torch.empty(count, embedding.num_patches, dtype=torch.int64, device="meta"))
    memory = peak_memory(ctx.device)
    return {"flops_per_image": training_flops(method, *inputs), "peak_memory": memory}


def _samples(ctx: StageContext, method: Any) -> tuple[Tensor, Tensor]:
    """Return a few images (N, C, H, W), normalised, and noise (N, L) drawn by the seed."""
    batch = next(ctx.evaluation_batches(ctx.index.viewed, samples=PICTURES, alone=True))
    generator = torch.Generator().manual_seed(ctx.params.seed)
    noise = torch.rand(len(batch["images"]), *method.noise_shape, generator=generator)
    return ctx.normalize(batch["images"].to(ctx.device)), noise.to(ctx.device)
