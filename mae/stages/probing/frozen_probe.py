"""The common part of `linear` and `attentive`: a probe on the frozen encoder, and on a random one."""

from collections.abc import Callable
from functools import partial as bind
from typing import Any

from mae import config
from mae.config import Params
from mae.config.paths import ENCODER
from mae.evaluation.classification.accuracy import Evaluation
from mae.stages.context.stage_context import open_stage
from mae.stages.probing import probe_results
from mae.stages.probing.train_probe import train

RANDOM = "random"  # the same encoder at random initialisation


def evaluate_frozen(stage: str, params: Params, settings: config.Probe, protocol: str) -> None:
    """Train the probe of this row of PROTOCOLS on each encoder; write reports/<stage> with the gain."""
    with open_stage(stage, params, encoder_file=ENCODER) as ctx:
        if probe_results.skip(ctx):
            return
        names = ["pretrained", RANDOM] if settings.random_baseline else ["pretrained"]
        evaluations = {}
        for name in names:
            training = bind(train, ctx, protocol, settings, name=name, random=name == RANDOM)
            saved = ctx.once(name, bind(_evaluate, training))
            evaluations[name] = probe_results.from_json(saved)
        rate = probe_results.write_curve(ctx, "pretrained/")
        about = {"labels_per_class": settings.labels_per_class, "images_per_second": rate}
        ctx.write_metrics(probe_results.against_random(evaluations, params.seed) | about)


def _evaluate(training: Callable[[], tuple[Any, Evaluation]]) -> dict[str, Any]:
    return probe_results.to_json(training()[1])
