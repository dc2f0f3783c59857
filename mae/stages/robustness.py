"""The stage `robustness`: evaluate the fine-tuned classifier on ImageNet-C, -A, -R and -Sketch."""

from mae.config import Params
from mae.config.paths import FINETUNED, REPORTS
from mae.files import write_json, write_text

NO_SETS = "params.yaml names no set to evaluate on (robustness.sets: [])"
NO_CLASSIFIER = "there is no fine-tuned classifier: the shards have no labels"
FOLDER = REPORTS / "robustness"


def robustness(params: Params) -> None:
    """Evaluate models/finetune on each of robustness.sets; write reports/robustness.

    A resumed stage does not repeat a finished set, or a finished severity of a corruption of ImageNet-C.
    """
    if not params.robustness.sets:
        _skip(NO_SETS)
    elif (FINETUNED / "SKIPPED.txt").is_file():
        _skip(NO_CLASSIFIER)
    else:
        from mae.stages.probing.evaluate_variants import evaluate_sets  # costs seconds to import

        evaluate_sets(params)


def _skip(why: str) -> None:
    """Write the reason as the results, without a run or an import: most recipes have no such sets."""
    for name in ("metrics.json", "run.json"):
        write_json(FOLDER / name, {"skipped": why})
    write_text(FOLDER / "corruptions.csv", "corruption\n")
