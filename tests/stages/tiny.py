"""The whole pipeline at a size that a test can wait for."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from mae import config
from mae.config import recipe
from mae.stage_table import STAGES
from mae.stages import run_stage

TINY = [
    "runtime.workers=0",
    "runtime.log_every=2",
    "runtime.checkpoint_every=2",
    "runtime.device=cpu",
    "demo={train: 60, val: 20, size: 36}",
    *(f"demo.{task}={{train: 12, val: 10, size: 32, rows: 2}}" for task in ("detect", "segment")),
    "detect={image_size: 32, window: 2, global_blocks: [1, 3], channels: 16, box_dim: 16, rois: 16}",
    "detect={detections: 10, milestones: [3]}",
    "segment={crop: 32, short: 32, stride: 16, taps: [0, 1, 2, 3], channels: 16}",
    *(f"{stage}={{steps: 4, batch_size: 4, warmup_steps: 1}}" for stage in ("detect", "segment")),
    "encoder={img_size: 32, patch_size: 8, embed_dim: 32, depth: 4, num_heads: 2}",
    "mae={decoder_embed_dim: 16, decoder_depth: 1, decoder_num_heads: 2}",
    "pretrain={epochs: 2, batch_size: 20, warmup_epochs: 1, probe: {every_epochs: 1, samples: 20}}",
    "partial={blocks: [0, 0.5, 2], epochs: [1], batch_size: 10, warmup_epochs: 0, labels_per_class: 2}",
    *(
        f"{stage}={{epochs: 2, batch_size: 10, warmup_epochs: 0, labels_per_class: 2}}"
        for stage in ("linear", "attentive", "finetune", "scratch")
    ),
]
ORDER = tuple(STAGES)
# A stage reads these from the environment; another test may have set them.
OURS_TO_SET = ("MLFLOW_TRACKING_URI",)


def write_tiny_params(folder: Path, project: Path, store: Path, *more: str) -> config.Params:
    """Give a folder the project's params, tiny and as `more` says, and a store with its tables made."""
    shutil.copy(project / "params.yaml", folder / "params.yaml")
    shutil.copy(store, folder / "mlflow.db")
    recipe.apply(None, [*TINY, *more], folder / "params.yaml")
    return config.load(folder / "params.yaml")


class SectionReads:
    """Params that note which of their sections are read."""

    def __init__(self, params: config.Params) -> None:
        self.params = params
        self.read: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name in config.Params.model_fields:
            self.read.add(name)
        return getattr(self.params, name)


def run(folder: Path, params: config.Params, *stages: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in OURS_TO_SET:
            patch.delenv(name, raising=False)
        for stage in stages:
            run_stage(stage, params)
