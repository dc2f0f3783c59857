"""The stages `ingest` and `shard`: raw images to a manifest, to WebDataset shards with their index."""

import logging
from pathlib import Path

from mae.config import Params
from mae.data.demo import write_demo
from mae.data.manifest import open_source, write_listing
from mae.data.shards import write_shards
from mae.stages.files import INDEX, LISTING_DIR, MANIFEST, SHARDS, require
from mae.stages.tracked import stage_folder, tracked

SECTIONS = {"ingest": ("demo", "ingest"), "shard": ("shard",)}
_log = logging.getLogger("mae.stages")


def ingest(params: Params) -> None:
    """List the source into data/ingest, by names, sizes and times; write the demo first if that is it."""
    given = params.ingest
    kind = given.source
    folder = stage_folder("ingest", params, SECTIONS["ingest"])
    with tracked("ingest", params, SECTIONS["ingest"], folder=folder) as run:
        if kind == "demo":
            kind = "folder"
            write_demo(Path(given.root).parent, seed=params.seed, **params.demo.model_dump())
        manifest = write_listing(open_source(kind, given.root, given.val_fraction), LISTING_DIR)
        counts = {name: split["count"] for name, split in manifest["splits"].items()}
        run.log(0, {f"images.{name}": count for name, count in counts.items()})
        run.dataset("raw", digest=manifest["fingerprint"], source=str(given.root), context="ingest")
        _log.info("listed %s: %s", given.root, ", ".join(f"{c:,} {name}" for name, c in counts.items()))


def shard(params: Params) -> None:
    """Copy the listed images into data/shards; what does not decode is left out, named in rejected.json."""
    require(MANIFEST)
    folder = stage_folder("shard", params, SECTIONS["shard"])
    with tracked("shard", params, SECTIONS["shard"], folder=folder) as run:
        index = write_shards(
            LISTING_DIR,
            SHARDS,
            folder.parent / "partial",
            seed=params.seed,
            workers=params.runtime.workers,
            log=_log.info,
            **params.shard.model_dump(),
        )
        values = {f"images.{name}": split["count"] for name, split in index["splits"].items()}
        run.log(0, values | {"rejected": index["rejected"]["count"]})
        run.artifact(INDEX)
