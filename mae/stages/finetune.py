"""The stage `finetune`: the whole encoder trained with labels; its classifier is registered."""

from mae import distributed
from mae.config import Params
from mae.config.paths import ENCODER, FINETUNED
from mae.stages.context.stage_context import open_stage
from mae.stages.probing import probe_results
from mae.stages.probing.train_probe import save_classifier, train


def finetune(params: Params) -> None:
    """Train the whole pretrained encoder with labels; write models/finetune and reports/finetune."""
    with open_stage("finetune", params, encoder_file=ENCODER) as ctx:
        if probe_results.skip(ctx, FINETUNED):
            return
        classifier, evaluation = train(ctx, "finetune", params.finetune)
        if distributed.is_main():
            save_classifier(ctx, classifier)
            probe_results.save_correct(FINETUNED, evaluation)
        ctx.write_metrics(probe_results.trained(ctx, evaluation, params.finetune))
