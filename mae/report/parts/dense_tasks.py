"""The report's parts on detection and segmentation: pretrained next to scratch."""

from dataclasses import dataclass
from typing import Any

from mae.config import Params
from mae.config.paths import DETECTION, SEGMENTATION, DataSet, read_result
from mae.report.paper_figures import paper_sources, published

INITS = ("pretrained", "scratch")


@dataclass(frozen=True)
class DenseSection:
    """The differences between the two tasks.

    official: kind and size of the validation set that the papers report on.
    """

    stage: str
    name: str
    main: str
    figures: tuple[str, ...]
    pictures: tuple[str, ...]
    data: DataSet
    official: tuple[str, int]


DETECT = DenseSection(
    "detect",
    "Detection and instance segmentation (Mask R-CNN)",
    "box_AP",
    ("box_AP", "box_AP50", "box_AP75", "box_AR100", "mask_AP", "mask_AP50", "mask_AP75"),
    ("predictions", "pr", "curve"),
    DETECTION,
    ("coco", 5000),  # val2017
)
SEGMENT = DenseSection(
    "segment",
    "Semantic segmentation",
    "mIoU",
    ("mIoU", "mAcc", "aAcc"),
    ("predictions", "classes", "curve"),
    SEGMENTATION,
    ("ade20k", 2000),
)


def detection(results: dict[str, Any], params: Params) -> dict[str, Any] | None:
    """Give the figures of detection; None where it was skipped."""
    return _part(DETECT, results["detect"], params)


def segmentation(results: dict[str, Any], params: Params) -> dict[str, Any] | None:
    """Give the figures of segmentation; None where it was skipped."""
    return _part(SEGMENT, results["segment"], params)


def _part(task: DenseSection, result: dict[str, Any], params: Params) -> dict[str, Any] | None:
    if "skipped" in result:
        return None
    index, main = read_result(task.data.index), task.main
    others = [init for init in INITS if init != result["init"] and f"{init}_{main}" in result]
    paper = _paper(task, index, params)
    rows = [_row(task, result, result["init"], "")]
    rows += [_row(task, result, init, f"{init}_") for init in others]
    if paper:
        rows.append({"init": "paper", "figures": [paper.get(name) for name in task.figures]})
    return {
        **{key: value for key, value in result.items() if key.startswith("gain")},
        "stage": task.stage,
        "name": task.name,
        "init": result["init"],
        "samples": result["samples"],
        "main": {
            "label": _label(main),
            "figure": result[main],
            "low": result[f"{main}_low"],
            "high": result[f"{main}_high"],
        },
        "others": [{"init": init, "main": result[f"{init}_{main}"]} for init in others],
        "columns": [f"{_label(name)} %" for name in task.figures],
        "rows": rows,
        "data": index,
        "sources": paper_sources(params, paper),
        "pictures": task.pictures,
    }


def _row(task: DenseSection, result: dict[str, Any], init: str, prefix: str) -> dict[str, Any]:
    return {"init": init, "figures": [100 * result[prefix + name] for name in task.figures]}


def _label(figure: str) -> str:
    return figure.replace("_", " ")


def _paper(task: DenseSection, index: dict[str, Any], params: Params) -> dict[str, float]:
    """Look up the paper's figures in %; {} on images that are not the official set."""
    kind, count = task.official
    if index["kind"] != kind or index["splits"].get("val", {}).get("count") != count:
        return {}
    return {name: figure for name, figure in published(params).items() if name in task.figures}
