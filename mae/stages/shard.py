"""The stage `shard`: the listed images copied into WebDataset shards with their index."""

from mae.config import Params
from mae.stages.context.data_sets import shard_set


def shard(params: Params) -> None:
    """Copy the listed images into data/shards; name those that do not decode in rejected.json."""
    shard_set("shard", params)
