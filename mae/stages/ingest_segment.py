"""The stage `ingest_segment`: the images with label maps listed."""

from mae.config import Params
from mae.config.paths import SEGMENTATION
from mae.data.demo.ade20k_layout import write_demo_ade20k
from mae.stages.context.data_sets import demo_scenes, ingest_set


def ingest_segment(params: Params) -> None:
    """List images with label maps in data/segment/ingest."""
    demo = demo_scenes(params, params.demo.segment, write_demo_ade20k)
    ingest_set("ingest_segment", params, SEGMENTATION, "ade20k", demo)
