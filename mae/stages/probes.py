"""The stages that train with labels to judge an encoder: linear, attentive, partial, finetune, scratch."""

from collections.abc import Sequence
from functools import partial as bind
from typing import Any

from mae import config, distributed
from mae.config import Params
from mae.config.paths import ENCODER, FINETUNED, SCRATCH
from mae.stages.context.stage_context import open_stage
from mae.stages.probing import probe_results as judged
from mae.stages.probing.train_probe import save_classifier, train

SECTIONS = {
    "linear": ("linear",),
    "attentive": ("attentive",),
    "partial": ("partial",),
    "finetune": ("finetune",),
    "scratch": ("encoder", "input", "scratch"),
}
RANDOM = "random"  # the same encoder at random initialisation


def linear(params: Params) -> None:
    """A linear classifier on frozen features (arXiv 2111.06377, appendix A.1)."""
    _probe("linear", params, params.linear, "linear" if params.linear.pool == "token" else "linear_mean")


def attentive(params: Params) -> None:
    """A classifier with one cross-attention over all frozen tokens (arXiv 2202.03026)."""
    _probe("attentive", params, params.attentive, "attentive")


def partial(params: Params) -> None:
    """Fine-tune the last blocks only, for every number of blocks; the best of `epochs` counts for each."""
    given = params.partial
    with open_probe("partial", params, SECTIONS["partial"]) as ctx:
        if judged.skip(ctx):
            return
        results = []
        for blocks in given.blocks:
            tried = []
            for epochs in given.epochs:
                name = f"blocks_{blocks:g}_epochs_{epochs}"
                settings = config.FineTune(epochs=epochs, **given.model_dump(exclude={"blocks", "epochs"}))
                trial = bind(train, ctx, "partial", settings, name=name, blocks=blocks)
                found = ctx.once(name, lambda trial=trial: judged.metrics(trial()[1], params.seed))
                tried.append({"blocks": blocks, "epochs": epochs, **found})
            results.append(max(tried, key=lambda result: result["top1"]))
        judged.write_blocks(ctx, results)
        best = max(results, key=lambda result: result["top1"])
        ctx.write_metrics(best | {"labels_per_class": given.labels_per_class})


def finetune(params: Params) -> None:
    """Train the whole pretrained encoder with labels; its classifier is what gets registered."""
    with open_probe("finetune", params, SECTIONS["finetune"]) as ctx:
        if judged.skip(ctx, FINETUNED):
            return
        classifier, found = train(ctx, "finetune", params.finetune)
        if distributed.is_main():
            save_classifier(ctx, classifier)
            judged.save_correct(FINETUNED, found)
        ctx.write_metrics(judged.trained(ctx, found, params.finetune))


def scratch(params: Params) -> None:
    """The baseline: the same encoder trained with labels from random weights (arXiv 2111.06377, A.2)."""
    with open_probe("scratch", params, SECTIONS["scratch"]) as ctx:
        if judged.skip(ctx, SCRATCH):
            return
        _, found = train(ctx, "scratch", params.scratch)
        if distributed.is_main():
            judged.save_correct(SCRATCH, found)
        ctx.write_metrics(judged.trained(ctx, found, params.scratch))


def open_probe(stage: str, params: Params, sections: Sequence[str]) -> Any:
    """The stage's session; a stage that reads the encoder starts anew where that is another."""
    return open_stage(stage, params, sections, encoder_file=None if stage == "scratch" else ENCODER)


def _probe(stage: str, params: Params, settings: config.Probe, protocol: str) -> None:
    with open_probe(stage, params, SECTIONS[stage]) as ctx:
        if judged.skip(ctx):
            return
        kinds = ["pretrained", RANDOM] if settings.random_baseline else ["pretrained"]
        found = {}
        for kind in kinds:
            trial = bind(train, ctx, protocol, settings, name=kind, random=kind == RANDOM)
            found[kind] = judged.restore(ctx.once(kind, lambda trial=trial: judged.keep(trial()[1])))
        rate = judged.write_curve(ctx, "pretrained/")
        about = {"labels_per_class": settings.labels_per_class, "images_per_second": rate}
        ctx.write_metrics(judged.against_random(found, params.seed) | about)
