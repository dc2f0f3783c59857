"""The stage `shard_detect`: images, boxes and masks copied into shards."""

from mae.config import Params
from mae.stages.context.data_sets import shard_set


def shard_detect(params: Params) -> None:
    """Copy images, boxes and masks into data/detect/shards; name unusable ones in rejected.json."""
    shard_set("shard_detect", params)
