"""The stage `scratch`: the baseline, the same encoder trained with labels from random weights."""

from mae import distributed
from mae.config import Params
from mae.config.paths import SCRATCH
from mae.stages.context.stage_context import open_stage
from mae.stages.probing import probe_results
from mae.stages.probing.train_probe import train


def scratch(params: Params) -> None:
    """Train the encoder with labels from random weights (arXiv 2111.06377, appendix A.2)."""
    with open_stage("scratch", params) as ctx:
        if probe_results.skip(ctx, SCRATCH):
            return
        _, evaluation = train(ctx, "scratch", params.scratch)
        if distributed.is_main():
            probe_results.save_correct(SCRATCH, evaluation)
        ctx.write_metrics(probe_results.trained(ctx, evaluation, params.scratch))
