"""The report's part on the stage `tokenizer`: error of the rebuilt images, and codes in use."""

from typing import Any

from mae.config import Params

NAMES = {
    "fsq": "convolutions and finite scalar quantisation",
    "kmeans": "k-means of normalised patches",
    "palette": "a palette, k-means of the patches' mean colours",
    "pca": "principal components of patches",
}


def tokenizer(results: dict[str, Any], params: Params) -> dict[str, Any] | None:
    """Give the metrics of the fitted tokenizer; None where none was fitted."""
    result = results["tokenizer"]
    return None if "skipped" in result else {**result, "name": NAMES[result["kind"]]}
