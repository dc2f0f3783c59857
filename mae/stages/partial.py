"""The stage `partial`: fine-tuning of the last blocks only, for several numbers of blocks."""

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


def partial(params: Params) -> None:
    """Fine-tune the last blocks, for each number of blocks; each keeps the best result over `epochs`."""
    given = params.partial
    with open_stage("partial", params, encoder_file=ENCODER) as ctx:
        if probe_results.skip(ctx):
            return
        results = []
        for blocks in given.blocks:
            tried = []
            for epochs in given.epochs:
                name = f"blocks_{blocks:g}_epochs_{epochs}"
                settings = config.FineTune(epochs=epochs, **given.model_dump(exclude={"blocks", "epochs"}))
                training = bind(train, ctx, "partial", settings, name=name, blocks=blocks)
                result = ctx.once(name, bind(_metrics, training, params.seed))
                tried.append({"blocks": blocks, "epochs": epochs, **result})
            results.append(max(tried, key=lambda result: result["top1"]))
        probe_results.write_blocks(ctx, results)
        best = max(results, key=lambda result: result["top1"])
        ctx.write_metrics(best | {"labels_per_class": given.labels_per_class})


def _metrics(training: Callable[[], tuple[Any, Evaluation]], seed: int) -> dict[str, Any]:
    return probe_results.metrics(training()[1], seed)
