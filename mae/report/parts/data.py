"""The report's part on the images of pretraining and classification."""

from typing import Any

from mae.config import Params
from mae.config.paths import IMAGES, read_json


def data(results: dict[str, Any], params: Params) -> dict[str, Any]:
    """Give the source, the fingerprint, and a row for each split."""
    manifest, index = read_json(IMAGES.manifest), read_json(IMAGES.index)
    return {
        "kind": manifest["kind"],
        "classes": len(index["classes"]),
        "fingerprint": index["fingerprint"],
        "rejected": index["rejected"]["count"],
        "splits": [
            {"name": name, "count": split["count"], "shards": len(split["shards"]), "bytes": split["bytes"]}
            for name, split in index["splits"].items()
        ],
    }
