"""The report's part on classification: each protocol's top-1, its gain, and the paper's."""

from typing import Any

from mae.config import Params
from mae.config.paths import FINETUNED, SCRATCH, require
from mae.report.paper_figures import paper_figures, paper_sources

PROTOCOLS = {
    "knn": "kNN",
    "linear": "linear probe",
    "attentive": "attentive probe",
    "partial": "partial fine-tuning",
    "finetune": "fine-tuning",
    "scratch": "from scratch",
}
FROZEN = ("knn", "linear", "attentive")


def classification(results: dict[str, Any], params: Params) -> dict[str, Any] | None:
    """Give a row for each protocol; None where the images have no labels."""
    if "skipped" in results["knn"]:
        return None
    paper = paper_figures(params)
    rows = {
        stage: {
            **results[stage],
            "name": name,
            "labels": results[stage].get("labels_per_class"),
            **({"paper": paper[stage]} if stage in paper else {}),
        }
        for stage, name in PROTOCOLS.items()
    }
    rows["finetune"] |= _gain_over_scratch(params)
    return {
        "rows": list(rows.values()),
        "frozen": [rows[stage] for stage in FROZEN],
        "finetuned": rows["finetune"],
        "scratch": rows["scratch"],
        "sources": paper_sources(params, paper),
    }


def _gain_over_scratch(params: Params) -> dict[str, float]:
    """Compare fine-tuning with scratch on the same validation images: gain, gain_low, gain_high."""
    import numpy as np

    from mae.evaluation.confidence import paired_gain

    finetuned, scratch = (np.load(require(folder / "correct.npy")) for folder in (FINETUNED, SCRATCH))
    values = paired_gain(finetuned, scratch, seed=params.seed)
    return dict(zip(("gain", "gain_low", "gain_high"), values, strict=True))
