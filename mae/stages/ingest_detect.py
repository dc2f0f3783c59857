"""The stage `ingest_detect`: the images with boxes and masks listed, their annotations checked."""

from mae.config import Params
from mae.config.paths import DETECTION
from mae.data.demo.coco_layout import write_demo_coco
from mae.stages.context.data_sets import demo_scenes, ingest_set


def ingest_detect(params: Params) -> None:
    """List images with boxes and masks in data/detect/ingest; check and keep their annotations."""
    demo = demo_scenes(params, params.demo.detect, write_demo_coco)
    ingest_set("ingest_detect", params, DETECTION, "coco", demo)
