"""The report's part on the last block's attention: its share on the middle of the image."""

from typing import Any

from mae.config import Params


def attention(results: dict[str, Any], params: Params) -> dict[str, Any] | None:
    """Give the share on the middle quarter, and that of the random encoder if it was measured."""
    result = results["knn"]
    if "attention_centre" not in result:
        return None
    return {"centre": result["attention_centre"], "random_centre": result.get("random_attention_centre")}
