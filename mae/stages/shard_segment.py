"""The stage `shard_segment`: images and label maps copied into shards."""

from mae.config import Params
from mae.stages.context.data_sets import shard_set


def shard_segment(params: Params) -> None:
    """Copy images and label maps into data/segment/shards; name unusable ones in rejected.json."""
    shard_set("shard_segment", params)
