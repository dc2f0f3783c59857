"""The stages `ingest*` and `shard*`: raw images to a manifest, to WebDataset shards with their index.

Three sets go the same way: images, images with boxes (`_detect`) and images with label maps (`_segment`).
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mae import config
from mae.config import Params
from mae.config.paths import DETECTION, IMAGES, NO_SET, SEGMENTATION, DataSet, read_json, require
from mae.data.demo.ade20k_layout import write_demo_ade20k
from mae.data.demo.coco_layout import write_demo_coco
from mae.data.demo.imagenet_layout import write_demo
from mae.data.demo.scenes import Look
from mae.data.listing.manifest import open_source, write_listing
from mae.data.shards.shard_job import ShardJob, ShardSettings
from mae.data.shards.write_shards import list_parts, write_parts, write_shards
from mae.data.sources.base import SourceError
from mae.files import write_json, write_text
from mae.stages.context.tracked_run import stage_folder, tracked

SECTIONS = {
    "ingest": ("demo", "ingest"),
    "shard": ("shard",),
    "ingest_detect": ("demo", "ingest_detect"),
    "shard_detect": ("shard_detect",),
    "ingest_segment": ("demo", "ingest_segment"),
    "shard_segment": ("shard_segment",),
}
SHARDED = {"shard": IMAGES, "shard_detect": DETECTION, "shard_segment": SEGMENTATION}
_log = logging.getLogger("mae.stages")


def ingest(params: Params) -> None:
    """List the source into data/ingest, by names, sizes and times; write the demo first if that is it."""

    def demo(root: Path) -> None:
        sizes = params.demo.model_dump(include={"train", "val", "size"})
        write_demo(root.parent, seed=params.seed, log=_log.info, **sizes)

    _ingest("ingest", params, IMAGES, "folder", demo)


def ingest_detect(params: Params) -> None:
    """List images with boxes and masks into data/detect/ingest; their annotations are checked and kept."""
    _ingest("ingest_detect", params, DETECTION, "coco", _scenes(params, params.demo.detect, write_demo_coco))


def ingest_segment(params: Params) -> None:
    """List images with label maps into data/segment/ingest."""
    demo = _scenes(params, params.demo.segment, write_demo_ade20k)
    _ingest("ingest_segment", params, SEGMENTATION, "ade20k", demo)


def shard(params: Params) -> None:
    """Copy the listed images into data/shards; what does not decode is left out, named in rejected.json."""
    _shard("shard", params)


def shard_detect(params: Params) -> None:
    """Copy images and annotations into data/detect/shards; unsound ones are named in rejected.json."""
    _shard("shard_detect", params)


def shard_segment(params: Params) -> None:
    """Copy images and label maps into data/segment/shards; unsound ones are named in rejected.json."""
    _shard("shard_segment", params)


def parts_to_write(stage: str, params: Params) -> list[str]:
    """Names of the shards that the stage would write now; none where it has nothing to do."""
    job = _job(stage, params)
    return [] if job is None else list_parts(job, _log.info)


def write_parts_of(stage: str, params: Params, names: Sequence[str]) -> None:
    """Write these of the stage's shards into its work folder, for the stage itself to publish."""
    job = _job(stage, params)
    if job is not None:
        write_parts(job, names, _log.info)


def _job(stage: str, params: Params) -> ShardJob | None:
    files = SHARDED[stage]
    if read_json(files.manifest) == NO_SET:
        return None
    return ShardJob(*_places(stage, params), ShardSettings(**_settings(stage, params)))


def _places(stage: str, params: Params) -> tuple[Path, Path, Path, Path]:
    """Listing, shards, the shards at work, the kept ones: of the stage, so that another batch finds them."""
    work = Path(params.runtime.work_dir).absolute() / stage
    files = SHARDED[stage]
    return files.listing, files.shards, work / "partial", work / "kept"


def _settings(stage: str, params: Params) -> dict[str, Any]:
    return {"seed": params.seed, **getattr(params, stage).model_dump()}


def _scenes(params: Params, given: config.Scenes, write: Callable[..., Any]) -> Callable[[Path], None]:
    sizes = given.model_dump(include={"train", "val", "size"})
    # Scenes differ in how many digits they hold; a few hold none, as in COCO.
    look = Look(rows=given.rows, missing=0.3, empty=0.04)
    return lambda root: write(root.parent, seed=params.seed, look=look, log=_log.info, **sizes)


def _ingest(
    stage: str, params: Params, files: DataSet, demo_kind: str, write: Callable[[Path], None]
) -> None:
    given = getattr(params, stage)
    kind = given.source
    folder = stage_folder(stage, params, SECTIONS[stage])
    with tracked(stage, params, SECTIONS[stage], folder=folder) as run:
        if kind == "none":
            write_text(files.listing / "listing.tsv", "")
            write_json(files.manifest, NO_SET)
            return
        if kind == "demo":
            kind = demo_kind
            write(Path(given.root))
        manifest = write_listing(open_source(kind, given.root, given.val_fraction), files.listing)
        if files is not IMAGES and "val" not in manifest["splits"]:
            task = stage.removeprefix("ingest_")
            raise SourceError(
                f"{given.root}: has no val split, and {task} is judged by one; add it, or hold some of train "
                f"out: `mae recipe --set {stage}.val_fraction=0.1`"
            )
        counts = {name: split["count"] for name, split in manifest["splits"].items()}
        run.log(0, {f"images.{name}": count for name, count in counts.items()})
        run.dataset("raw", digest=manifest["fingerprint"], source=str(given.root), context=stage)
        _log.info("listed %s: %s", given.root, ", ".join(f"{c:,} {name}" for name, c in counts.items()))


def _shard(stage: str, params: Params) -> None:
    files = SHARDED[stage]
    require(files.manifest)
    folder = stage_folder(stage, params, SECTIONS[stage])
    with tracked(stage, params, SECTIONS[stage], folder=folder) as run:
        if read_json(files.manifest) == NO_SET:
            (files.shards / "tars").mkdir(parents=True, exist_ok=True)
            write_json(files.index, NO_SET)
            write_json(files.shards / "rejected.json", {})
            return
        *places, kept = _places(stage, params)
        index = write_shards(
            *places,
            kept_dir=kept,
            workers=params.runtime.workers,
            log=_log.info,
            **_settings(stage, params),
        )
        values = {f"images.{name}": split["count"] for name, split in index["splits"].items()}
        run.log(0, values | {"rejected": index["rejected"]["count"]})
        run.artifact(files.index)
