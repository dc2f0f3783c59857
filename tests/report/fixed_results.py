"""Fixed results of all stages, from which a report can be rendered without running any."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from mae.config import Params
from mae.report.render import STAGES, markdown

GAIN = {"gain": 0.0625, "gain_low": -0.0125, "gain_high": 0.125}
TOP = {"top1": 0.75, "top1_low": 0.625, "top1_high": 0.875, "samples": 7, "labels_per_class": 2}
METRICS: dict[str, dict[str, Any]] = {
    "tokenizer": {
        "kind": "kmeans", "error": 0.25, "samples": 60, "split": "val", "steps": 6, "codes": 16,
        "codes_used": 15, "code_perplexity": 12.5, "pictures_note": "a note",
    },
    "pretrain": {
        "parameters": 2_000_000, "samples": 60, "steps": 6, "first_loss": 1.0, "loss": 0.5,
        "attention": "full", "images_per_second": 1234.5, "pictures_note": "as predicted",
        "pictures_split": "val",
    },
    "knn": {**TOP, "random_top1": 0.5, **GAIN, "attention_centre": 0.3125, "random_attention_centre": 0.25},
    "linear": {**TOP, "random_top1": 0.25, **GAIN},
    "attentive": TOP,
    "partial": TOP,
    "finetune": {**TOP, "labels_per_class": None},
    "scratch": {**TOP, "top1": 0.5},
    "robustness": {"skipped": "no set"},
    "detect": {
        "init": "pretrained", "samples": 4, "box_AP_low": 0.125, "box_AP_high": 0.5, **GAIN,
        **{
            f"{init}{kind}_{name}": value
            for init, value in (("", 0.375), ("scratch_", 0.3125))
            for kind in ("box", "mask")
            for name in ("AP", "AP50", "AP75", "AR100")
        },
    },
    "segment": {
        "init": "pretrained", "samples": 2, "mIoU": 0.5, "mAcc": 0.625, "aAcc": 0.75,
        "mIoU_low": 0.375, "mIoU_high": 0.625,
    },
}  # fmt: skip
RUN = {"run_id": "0" * 32, "commit": "abcdef123456", "device": "a processor", "seconds": 12.0}
DECISION = {
    "encoder": {
        "reason": "gain +0.0100",
        "models": [{"name": "mae-encoder", "version": "2", "aliases": ["champion"]}],
    }
}
PICTURES = (
    "partial/blocks", "knn/attention", "knn/projection", "pretrain/curve", "pretrain/reconstructions",
    "tokenizer/pictures/curve", "tokenizer/pictures/rebuilt", "detect/predictions", "detect/pr",
    "detect/curve", "segment/predictions", "segment/classes", "segment/curve",
)  # fmt: skip
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


def index(folder: str, kind: str = "folder", classes: int = 2, val: int = 7, **more: Any) -> None:
    """Write index.json of shards in `folder`, with so many classes and validation images."""
    split = {"count": val, "shards": ["val-000000.tar"], "bytes": 1024}
    names = [str(number) for number in range(classes)]
    about = {"kind": kind, "classes": names, "categories": names, "splits": {"val": split}}
    write(f"{folder}/index.json", about | {"fingerprint": "f" * 64, "rejected": {"count": 0}} | more)


def write_results(**changed: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Write what the report reads into the current directory, but for the metrics, which are returned."""
    index("data/shards")
    index("data/detect/shards", "coco")
    index("data/segment/shards", "ade20k")
    write("data/ingest/manifest.json", {"kind": "folder"})
    for stage in STAGES:
        write(f"reports/{stage}/run.json", RUN)
    for name in PICTURES:
        write(f"reports/{name}.png", PIXEL)
    write("reports/register/decision.json", DECISION)
    write("reports/partial/blocks.csv", b"blocks,top1,top1_low,top1_high\n0,0.5,0.25,0.75\n")
    write("reports/robustness/corruptions.csv", b"corruption,CE,error_1,error_5\nfrost_fog,0.75,0.5,0.625\n")
    for stage, right in (("finetune", [1, 1, 0, 1]), ("scratch", [1, 0, 0, 1])):
        Path(f"models/{stage}").mkdir(parents=True, exist_ok=True)
        np.save(f"models/{stage}/correct.npy", np.array(right, dtype=bool))
    return METRICS | changed


def rendered(params: Params, **changed: dict[str, Any]) -> str:
    """Render the report, in the current directory, of the fixed results with some stages' changed."""
    return markdown(write_results(**changed), params)


def section(report: str, heading: str) -> str:
    """Cut one section out of a report."""
    return report.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def write(path: str, content: Any) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
