"""The table of stages: one row for each stage of dvc.yaml, in its order.

A stage's name is its entry in dvc.yaml, its file mae/stages/<name>.py and the function in that file. The
command `mae`, the runner, the flows, the sweeps, the versions of results and the tests read the stages from
here. The table imports nothing that is ours or heavy: `mae --help` and the flows read it at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml.

    help: its line in `mae --help`. sections: the sections of params.yaml that its result depends on, apart
    from `seed`; `${pretrain.method}` is the section that this setting names. part: the setting that chooses
    which part of the stage runs, where the parts have versions of their own (mae/results.yaml). parallel: it
    may run under torchrun and wants a device. writes_shards: its work can be divided into shards. figure: the
    name of its main figure in tables, where it evaluates a model.
    """

    name: str
    help: str
    sections: tuple[str, ...] = ()
    part: str | None = None
    parallel: bool = False
    writes_shards: bool = False
    figure: str | None = None

    def sections_in(self, params: Any) -> tuple[str, ...]:
        """Return the sections with the names that these parameters choose filled in."""
        return tuple(re.sub(r"\$\{(.+)\}", lambda key: setting(params, key[1]), one) for one in self.sections)


def setting(params: Any, key: str) -> Any:
    """Read a setting by its dotted key, e.g. `pretrain.method`."""
    section, name = key.split(".")
    return getattr(getattr(params, section), name)


_ROWS = (
    Stage(
        "versions", "check what the stages need, and write the version of what each computes, for DVC to see"
    ),
    Stage(
        "ingest",
        "list the raw images in a small manifest (and write the demo first, where it is the source)",
        sections=("demo", "ingest"),
    ),
    Stage(
        "shard",
        "copy the listed images into WebDataset shards and index them",
        sections=("shard",),
        writes_shards=True,
    ),
    Stage(
        "tokenizer",
        "fit visual tokens, components or a palette, where pretraining asks for them",
        sections=("input", "encoder", "tokenizer"),
        part="tokenizer.kind",
        parallel=True,
    ),
    Stage(
        "pretrain",
        "train the encoder without labels",
        sections=("input", "encoder", "pretrain", "${pretrain.method}"),
        part="pretrain.method",
        parallel=True,
    ),
    Stage(
        "knn",
        "evaluate the frozen encoder by its nearest neighbours",
        sections=("knn",),
        parallel=True,
        figure="kNN",
    ),
    Stage(
        "linear",
        "evaluate the frozen encoder by a linear classifier",
        sections=("linear",),
        parallel=True,
        figure="linear",
    ),
    Stage(
        "attentive",
        "evaluate the frozen encoder by a classifier with one cross-attention",
        sections=("attentive",),
        parallel=True,
        figure="attentive",
    ),
    Stage(
        "partial",
        "fine-tune the last blocks only, for several numbers of blocks",
        sections=("partial",),
        parallel=True,
        figure="partial",
    ),
    Stage(
        "finetune",
        "fine-tune the whole encoder",
        sections=("finetune",),
        parallel=True,
        figure="fine-tune",
    ),
    Stage(
        "scratch",
        "train the same encoder with labels from random weights",
        sections=("encoder", "input", "scratch"),
        parallel=True,
        figure="scratch",
    ),
    Stage(
        "robustness",
        "evaluate the fine-tuned classifier on ImageNet-C, -A, -R and -Sketch",
        sections=("robustness",),
        parallel=True,
    ),
    Stage(
        "ingest_detect",
        "list the images with boxes and masks, and check their annotations",
        sections=("demo", "ingest_detect"),
    ),
    Stage(
        "shard_detect",
        "copy images, boxes and masks into shards",
        sections=("shard_detect",),
        writes_shards=True,
    ),
    Stage(
        "detect",
        "train Mask R-CNN on the encoder, and on random weights; COCO's box and mask AP",
        sections=("detect",),
        parallel=True,
        figure="detect, box AP",
    ),
    Stage(
        "ingest_segment",
        "list the images with label maps",
        sections=("demo", "ingest_segment"),
    ),
    Stage(
        "shard_segment",
        "copy images and label maps into shards",
        sections=("shard_segment",),
        writes_shards=True,
    ),
    Stage(
        "segment",
        "train UperNet (or DPT) on the encoder, and on random weights; mIoU",
        sections=("segment",),
        part="segment.head",
        parallel=True,
        figure="segment, mIoU",
    ),
    Stage(
        "register",
        "put the models into the MLflow registry; promote those that are better",
        sections=("registry",),
    ),
    Stage(
        "report",
        "write reports/report.md and report.html",
        sections=("report", "encoder", "pretrain", "finetune", "scratch"),
    ),
)
STAGES: dict[str, Stage] = {row.name: row for row in _ROWS}
PARALLEL = frozenset(row.name for row in _ROWS if row.parallel)
SHARDING = frozenset(row.name for row in _ROWS if row.writes_shards)
