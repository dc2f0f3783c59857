"""The stage `ingest`: the raw images listed in a small manifest."""

import logging
from pathlib import Path

from mae.config import Params
from mae.config.paths import IMAGES
from mae.data.demo.imagenet_layout import write_demo
from mae.stages.context.data_sets import ingest_set

_log = logging.getLogger("mae.stages")


def ingest(params: Params) -> None:
    """List the source in data/ingest, by names, sizes and times; write the demo first if that is it."""

    def demo(root: Path) -> None:
        sizes = params.demo.model_dump(include={"train", "val", "size"})
        write_demo(root.parent, seed=params.seed, log=_log.info, **sizes)

    ingest_set("ingest", params, IMAGES, "folder", demo)
