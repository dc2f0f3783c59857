"""The context of a training stage: device, shards, resume folder, MLflow run, and their end."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mae import distributed, interchange, tracking
from mae.config import Params
from mae.config.paths import IMAGES, REPORTS, DataSet, require
from mae.data.loading.batches import evaluation_batches, training_batches
from mae.data.rejection_limit import RejectionLimit
from mae.data.shards.index import Index, Split
from mae.data.transforms.image import Normalize, evaluation
from mae.engine.checkpoint import Checkpoints
from mae.engine.loop import FitOptions, Interrupted
from mae.files import read_json, sha256_of, write_json
from mae.stages.context.data_sizes import refuse_beyond_the_data
from mae.stages.context.rejection import rejection_limit
from mae.stages.context.tracked_run import stage_folder, tracked, verified_file

_log = logging.getLogger("mae.stages")
PICTURES = 8  # images that a stage draws, for a person to look at


@dataclass(frozen=True)
class StageContext:
    """The context of a running stage, one on every rank; `run` does nothing on ranks other than 0."""

    stage: str
    params: Params
    folder: Path
    device: torch.device
    index: Index
    run: tracking.Run
    files: DataSet
    encoder_file: Path | None = None

    @cached_property
    def encoder(self) -> dict[str, Any]:
        """Return the encoder's config: that of the file that the stage reads, else that of params.yaml."""
        if self.encoder_file is None:
            return encoder_config(self.params)
        return interchange.load_encoder(require(self.encoder_file))[1]

    @property
    def img_size(self) -> int | tuple[int, int]:
        """The image size of the encoder, in pixels."""
        size = self.encoder["img_size"]
        return size if isinstance(size, int) else tuple(size)

    @property
    def can_evaluate(self) -> bool:
        """True where the shards have labels and a validation split."""
        return bool(self.index.classes) and "val" in self.index.about["splits"]

    @property
    def max_skipped(self) -> RejectionLimit:
        """The bound on samples of the set that are undecodable."""
        return rejection_limit(self.params, self.files)

    @property
    def normalize(self) -> Normalize:
        """The transform of uint8 images to the encoder's floats, on the device."""
        return Normalize(self.encoder["mean"], self.encoder["std"]).to(self.device)

    def evaluation_batches(
        self, split: Split, *, batch_size: int = 256, samples: int | None = None, alone: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Load this rank's part of a split for evaluation, every sample once over the ranks.

        samples: only so many, taken evenly out of the split. alone: all of them on this rank, in one batch.
        """
        count = min(samples or len(split), len(split))
        return evaluation_batches(
            split,
            evaluation(self.img_size),
            rows=np.linspace(0, len(split) - 1, count).astype(np.int64),
            batch_size=count if alone else batch_size,
            rank=0 if alone else distributed.rank(),
            world=1 if alone else distributed.world_size(),
            workers=0 if alone else self.params.runtime.workers,
            max_skipped=self.max_skipped,
        )

    def training_batches(
        self,
        split: Split,
        transform: Callable[..., Any],
        settings: Any,
        *,
        start: int,
        stop: int,
        attempt: int,
        alone: bool = False,
        **options: Any,
    ) -> Iterator[dict[str, Any]]:
        """Load this rank's part of the steps [start, stop) of a training with these settings.

        settings: a section of params.yaml with `batch_size` and `accumulate`; alone: all of it on this rank;
        options: more arguments of `batches.training_batches` (rows, views, noise_shape, target ...).
        """
        return training_batches(
            split,
            transform,
            global_batch=settings.batch_size,
            start=start,
            stop=stop,
            seed=self.params.seed,
            attempt=attempt,
            accumulate=settings.accumulate,
            rank=0 if alone else distributed.rank(),
            world=1 if alone else distributed.world_size(),
            workers=self.params.runtime.workers,
            max_skipped=self.max_skipped,
            **options,
        )

    def checkpoints(self, name: str = "training") -> Checkpoints:
        """Return the checkpoints of one training of this stage."""
        return Checkpoints(self.folder / "checkpoints" / name, keep=self.params.runtime.keep_checkpoints)

    def fit_options(self, settings: Any, name: str = "") -> FitOptions:
        """Collect the options of `fit` from a section of params.yaml and from `runtime`.

        name: one training of several in this stage; its metrics are logged under it.
        """
        runtime, prefix = self.params.runtime, f"{name}/" if name else ""

        def log(step: int, values: dict[str, float]) -> None:
            self.run.log(step, {prefix + key: value for key, value in values.items()})

        return FitOptions(
            seed=self.params.seed,
            device=self.device,
            accumulate=settings.accumulate,
            precision=self.precision(settings.precision),
            clip_grad=settings.clip_grad,
            ema_decay=getattr(settings, "ema", None),
            compile=settings.compile,
            checkpoints=self.checkpoints(name or "training"),
            checkpoint_every=runtime.checkpoint_every,
            log=log,
            log_every=runtime.log_every,
            run_id=self.run.id,
            encoder_config=self.encoder,
        )

    def precision(self, wanted: str) -> str:
        """Resolve `auto`: bf16 on a GPU, fp32 on the CPU."""
        return {"auto": "bf16" if self.device.type == "cuda" else "fp32"}.get(wanted, wanted)

    def once(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return `compute()`, or its result from before an interruption; all ranks call it together.

        The checkpoints of the training `name` are deleted once it is done: a stage may have dozens.
        """
        file = self.folder / "checkpoints" / f"{name}.json"
        saved = distributed.broadcast(read_json(file))  # a damaged one is computed again
        if saved is None or "found" not in saved:
            saved = {"run_id": self.run.id, "found": compute()}
            if distributed.is_main():
                write_json(file, saved)
                self.checkpoints(name).clear()
        result: dict[str, Any] = saved["found"]
        return result

    def curve(self, names: Sequence[str]) -> list[dict[str, float]]:
        """Return the metrics that this run logged, a row per step: `step`, and the `names` logged at it."""
        rows: dict[int, dict[str, float]] = {}
        logged = tracking.history(self.folder / "run" / "metrics.jsonl")
        for name in names:
            for step, value in logged.get(name, []):
                rows.setdefault(step, {"step": step})[name] = value
        return [rows[step] for step in sorted(rows)]

    def write_metrics(self, values: dict[str, Any]) -> None:
        """Write the final numbers to reports/<stage>/metrics.json and MLflow; on rank 0 only."""
        if distributed.is_main():
            write_json(REPORTS / self.stage / "metrics.json", values)
            final = {f"final.{name}": float(v) for name, v in values.items() if isinstance(v, int | float)}
            self.run.log(int(values.get("steps", 0)), final)


def encoder_config(params: Params) -> dict[str, Any]:
    """Return the config of an encoder file: its build arguments and its images' colour statistics."""
    size = params.encoder.img_size
    return {
        "name": params.encoder.name,
        "img_size": size if isinstance(size, int) else list(size),
        **params.encoder.overrides,
        **params.input.numbers,
    }


@contextmanager
def open_stage(
    stage: str,
    params: Params,
    *,
    files: DataSet = IMAGES,
    inputs: Sequence[str] = (),
    encoder_file: Path | None = None,
) -> Iterator[StageContext]:
    """Open a training stage: its sections of params.yaml and its inputs' digests name its resume folder.

    encoder_file: the encoder that the stage reads, one of its inputs.

    An interrupted stage finds its folder again and resumes, under changed code too; a changed one starts in a
    fresh folder. The checkpoints go when the stage is done, so that one that DVC repeats starts fresh.
    """
    runtime = params.runtime
    encoder_digest = [] if encoder_file is None else [sha256_of(require(encoder_file))]
    device = distributed.init(None if runtime.device == "auto" else runtime.device)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        # The loader's processes need cores too; idle threads that spin on them cost a sixth of the speed.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - runtime.workers))
    try:
        index = _open_index(params, files)
        refuse_beyond_the_data(stage, params, index)
        folder = stage_folder(stage, params, [index.digest, *inputs, *encoder_digest])
        opened = tracked(
            stage,
            params,
            folder=folder,
            device=_name(device),
            run_id=_interrupted_run(folder / "checkpoints"),
            enabled=distributed.is_main(),
            interruptions=(Interrupted, KeyboardInterrupt),
            data=index.digest,
        )
        with opened as run:
            run.dataset("shards", digest=index.digest, source=str(files.index), context=stage)
            yield StageContext(stage, params, folder, device, index, run, files, encoder_file)
            if distributed.is_main():
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    finally:
        distributed.shutdown()


def _interrupted_run(checkpoints: Path) -> str | None:
    """Return the tracking run of an interrupted stage's last work; None where there is none."""
    for path in sorted(checkpoints.glob("*"), key=lambda path: path.stat().st_mtime, reverse=True):
        saved = read_json(path) if path.suffix == ".json" else None
        run_id: str | None = (saved or {}).get("run_id") or Checkpoints(path).run_id()
        if run_id is not None:
            return run_id
    return None


def _open_index(params: Params, files: DataSet) -> Index:
    """Open the shards; check their sizes, and their bytes unless those were checked before."""
    require(files.index)
    index = Index.open(files.shards)
    if distributed.local_rank() == 0:
        index.verify(verified_file(params), log=_log.info)
    distributed.barrier()
    return index


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
