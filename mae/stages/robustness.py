"""The stage `robustness`: the fine-tuned classifier on ImageNet-C, -A, -R and -Sketch."""

from mae.config import Params
from mae.config.paths import FINETUNED, REPORTS
from mae.files import write_json, write_text

NO_SETS = "params.yaml names no set to judge on (robustness.sets: [])"
NO_CLASSIFIER = "there is no fine-tuned classifier: the shards have no labels"
FOLDER = REPORTS / "robustness"


def robustness(params: Params) -> None:
    """Judge models/finetune on each of robustness.sets; write reports/robustness.

    Resumable: a set that is finished, or a severity of a corruption of ImageNet-C, is not judged again.
    """
    if not params.robustness.sets:
        _pass_over(NO_SETS)
    elif (FINETUNED / "SKIPPED.txt").is_file():
        _pass_over(NO_CLASSIFIER)
    else:
        from mae.stages.probing.evaluate_variants import judge_sets  # which costs seconds to import

        judge_sets(params)


def _pass_over(why: str) -> None:
    """No run, nothing imported: most recipes have no such sets."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("metrics.json", "run.json"):
        write_json(FOLDER / name, {"skipped": why})
    write_text(FOLDER / "corruptions.csv", "corruption\n")
