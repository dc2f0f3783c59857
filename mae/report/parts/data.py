"""The report's part on the images of pretraining and classification."""

from typing import Any

from mae.config import Params
from mae.config.paths import IMAGES, read_result


def data(results: dict[str, Any], params: Params) -> dict[str, Any]:
    """Give the source, the fingerprint, and a row for each split."""
    manifest, index = read_result(IMAGES.manifest), read_result(IMAGES.index)
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
