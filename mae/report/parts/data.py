"""The report's part on the images of pretraining and classification."""

from typing import Any

from mae.config import Params
from mae.config.paths import COLOURS, IMAGES, read_result
from mae.files import read_json, sha256_of


def data(results: dict[str, Any], params: Params) -> dict[str, Any]:
    """Give the source, the fingerprint, a row for each split, and the colours where they were measured."""
    manifest, index = read_result(IMAGES.manifest), read_result(IMAGES.index)
    colours = read_json(COLOURS)
    return {
        "kind": manifest["kind"],
        "classes": len(index["classes"]),
        "fingerprint": index["fingerprint"],
        "colours": colours if colours and colours["index"] == sha256_of(IMAGES.index) else None,
        "rejected": index["rejected"]["count"],
        "splits": [
            {"name": name, "count": split["count"], "shards": len(split["shards"]), "bytes": split["bytes"]}
            for name, split in index["splits"].items()
        ],
    }
