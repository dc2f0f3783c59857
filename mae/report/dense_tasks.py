"""The report's part on the dense tasks: detection and segmentation, pretrained beside scratch."""

from collections.abc import Iterator
from typing import Any

from mae.config import Params
from mae.config.paths import DETECTION, SEGMENTATION, DataSet, read_json
from mae.report.paper_figures import paper_source, published
from mae.report.text import gain, percent, table

NAMES = {
    "detect": "Detection and instance segmentation (Mask R-CNN)",
    "segment": "Semantic segmentation",
}
MAIN = {"detect": "box_AP", "segment": "mIoU"}
COLUMNS = {
    "detect": ("box_AP", "box_AP50", "box_AP75", "box_AR100", "mask_AP", "mask_AP50", "mask_AP75"),
    "segment": ("mIoU", "mAcc", "aAcc"),
}
PICTURES = {
    "detect": ("predictions.png", "pr.png", "curve.png"),
    "segment": ("predictions.png", "classes.png", "curve.png"),
}
SETS = {"detect": DETECTION, "segment": SEGMENTATION}
# Sizes of the validation sets that the papers' numbers are of: COCO val2017, ADE20K.
OFFICIAL = {"detect": ("coco", 5000), "segment": ("ade20k", 2000)}
DENSE = tuple(NAMES)


def dense_summary(stage: str, result: dict[str, Any]) -> str | None:
    """One line for the top of the report; None where the stage was passed over."""
    if "skipped" in result:
        return None
    main = MAIN[stage]
    line = f"* {NAMES[stage]}: {main.replace('_', ' ')} **{percent(result[main])}**"
    for other in _others(stage, result):
        line += f" against {percent(result[f'{other}_{main}'])} from {other}, same steps ({gain(result)})"
    return line + "."


def dense_section(stage: str, result: dict[str, Any], params: Params) -> Iterator[str]:
    """Table of figures, pictures and data of one dense task; nothing where it was passed over."""
    if "skipped" in result:
        return
    yield f"## {NAMES[stage]}"
    columns = COLUMNS[stage]
    rows = [["encoder", *(f"{name.replace('_', ' ')} %" for name in columns)]]
    for init in (result["init"], *_others(stage, result)):
        prefix = "" if init == result["init"] else f"{init}_"
        rows.append([init, *(f"{100 * result[prefix + name]:.1f}" for name in columns)])
    paper = _paper(stage, params)
    if paper:
        rows.append(["paper", *(f"{paper[name]:.1f}" if name in paper else "" for name in columns)])
    yield table(rows)
    low, high = (percent(result[f"{MAIN[stage]}_{end}"]) for end in ("low", "high"))
    yield (
        f"All {result['samples']:,} validation images; {MAIN[stage].replace('_', ' ')} of {result['init']}: "
        f"95 % interval {low} to {high}, by bootstrap over images. {_data(SETS[stage])}"
        f"{paper_source(params, paper)}"
    )
    for picture in PICTURES[stage]:
        yield f"![{NAMES[stage]}: {picture.removesuffix('.png')}]({stage}/{picture})"


def _others(stage: str, result: dict[str, Any]) -> list[str]:
    known = ("pretrained", "scratch")
    return [name for name in known if name != result["init"] and f"{name}_{MAIN[stage]}" in result]


def _paper(stage: str, params: Params) -> dict[str, float]:
    index, found = read_json(SETS[stage].index), published(params)
    kind, count = OFFICIAL[stage]
    official = index["kind"] == kind and index["splits"].get("val", {}).get("count") == count
    return {name: found[name] for name in COLUMNS[stage] if official and name in found}


def _data(files: DataSet) -> str:
    index = read_json(files.index)
    counts = ", ".join(f"{split['count']:,} {name}" for name, split in index["splits"].items())
    said = (
        f"Data: {index['kind']}, {counts}, {len(index['categories'])} categories, fingerprint "
        f"`{index['fingerprint'][:16]}`, {index['rejected']['count']} left out."
    )
    if index.get("boxes_only"):
        said += f" {index['boxes_only']:,} objects have a box and no mask: the box is taken for their mask."
    return said
