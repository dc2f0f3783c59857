"""The common part of the stages `ingest*` and `shard*`: raw images to a manifest, and to indexed shards.

Three sets go the same way: images, images with boxes (`_detect`) and images with label maps (`_segment`).
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mae import config
from mae.config import Params
from mae.config.paths import DETECTION, IMAGES, NO_SET, SEGMENTATION, DataSet, read_result, require
from mae.data.demo.scenes import Look
from mae.data.listing.listing_file import LISTING, SUMMARY
from mae.data.listing.manifest import open_source, write_listing
from mae.data.listing.summary import lines
from mae.data.shards.shard_job import ShardJob, ShardSettings
from mae.data.shards.write_shards import list_parts, write_parts, write_shards
from mae.data.sources.base import SourceError
from mae.files import write_json, write_text
from mae.stages.context.tracked_run import stage_folder, tracked, verified_file

SHARDED = {files.section: files for files in (IMAGES, DETECTION, SEGMENTATION)}
_log = logging.getLogger("mae.stages")


def demo_scenes(params: Params, given: config.Scenes, write: Callable[..., Any]) -> Callable[[Path], None]:
    sizes = given.model_dump(include={"train", "val", "size"})
    # Scenes differ in how many digits they hold; a few hold none, as in COCO.
    look = Look(rows=given.rows, missing=0.3, empty=0.04)
    return lambda root: write(root.parent, seed=params.seed, look=look, log=_log.info, **sizes)


def ingest_set(
    stage: str, params: Params, files: DataSet, demo_kind: str, write: Callable[[Path], None]
) -> None:
    given = getattr(params, stage)
    kind = given.source
    folder = stage_folder(stage, params)
    with tracked(stage, params, folder=folder) as run:
        if kind == "none":
            write_text(files.listing / "listing.tsv", "")
            write_json(files.listing / SUMMARY, NO_SET)
            write_json(files.manifest, NO_SET)
            return
        if kind == "demo":
            kind = demo_kind
            write(Path(given.root))
        values = getattr(given, "values", None)
        options = {} if values is None else {"values": values}
        manifest = write_listing(open_source(kind, given.root, given.val_fraction, **options), files.listing)
        if files is not IMAGES and "val" not in manifest["splits"]:
            task = stage.removeprefix("ingest_")
            raise SourceError(
                f"{given.root}: no val split to evaluate {task} by; add one, or hold some of train "
                f"out: `mae recipe --set {stage}.val_fraction=0.1`"
            )
        counts = {name: split["count"] for name, split in manifest["splits"].items()}
        run.log(0, {f"images.{name}": count for name, count in counts.items()})
        run.dataset("raw", digest=manifest["fingerprint"], source=str(given.root), context=stage)
        _log.info("listed %s: %s", given.root, ", ".join(f"{c:,} {name}" for name, c in counts.items()))
        _tell(read_result(files.listing / SUMMARY), files)
        run.artifact(files.listing / SUMMARY)


def _tell(summary: dict[str, Any], files: DataSet) -> None:
    """Log the summary of a listing, its warnings last, where they are seen."""
    for line in lines(summary):
        _log.info("%s", line)
    _log.info("the list: %s; this summary: %s", files.listing / LISTING, files.listing / SUMMARY)
    for warning in summary["warnings"]:
        _log.warning("%s", warning)


def shard_set(stage: str, params: Params) -> None:
    """Copy the listed images of a set, with their annotations, into shards; name unusable ones."""
    files = SHARDED[stage]
    require(files.manifest)
    folder = stage_folder(stage, params)
    with tracked(stage, params, folder=folder) as run:
        if read_result(files.manifest) == NO_SET:
            (files.shards / "tars").mkdir(parents=True, exist_ok=True)
            write_json(files.index, NO_SET)
            write_json(files.shards / "rejected.json", {})
            write_json(files.shards / SUMMARY, NO_SET)
            return
        *folders, kept = _folders(stage, params)
        index = write_shards(
            *folders,
            reuse_dir=kept,
            stamps=verified_file(params),
            workers=params.runtime.workers,
            log=_log.info,
            **_settings(stage, params),
        )
        values = {f"images.{name}": split["count"] for name, split in index["splits"].items()}
        run.log(0, values | {"rejected": index["rejected"]["count"]})
        run.artifact(files.index)
        run.artifact(files.shards / SUMMARY)


def parts_to_write(stage: str, params: Params) -> list[str]:
    """Return the names of the shards that the stage would write now."""
    job = _job(stage, params)
    return [] if job is None else list_parts(job, _log.info)


def write_parts_of(stage: str, params: Params, names: Sequence[str]) -> None:
    """Write the named shards into the stage's work folder; the stage itself moves them to their place."""
    job = _job(stage, params)
    if job is not None:
        write_parts(job, names, _log.info)


def _job(stage: str, params: Params) -> ShardJob | None:
    files = SHARDED[stage]
    if read_result(files.manifest) == NO_SET:
        return None
    return ShardJob(
        *_folders(stage, params), ShardSettings(**_settings(stage, params)), verified_file(params)
    )


def _folders(stage: str, params: Params) -> tuple[Path, Path, Path, Path]:
    """Return the folders: listing, shards, shards being written, shards kept for the next batch."""
    work = Path(params.runtime.work_dir).absolute() / stage
    files = SHARDED[stage]
    return files.listing, files.shards, work / "partial", work / "kept"


def _settings(stage: str, params: Params) -> dict[str, Any]:
    return {"seed": params.seed, "section": stage, **getattr(params, stage).model_dump()}
