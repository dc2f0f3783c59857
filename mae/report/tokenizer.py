"""The report's part on the stage `tokenizer`: how well images come back, and how many codes are in use."""

from collections.abc import Iterator
from typing import Any

from mae.report.text import of_split, percent, table

NAMES = {
    "fsq": "convolutions and finite scalar quantisation",
    "kmeans": "k-means of normalised patches",
    "palette": "a palette, k-means of the patches' mean colours",
    "pca": "principal components of patches",
}


def tokenizer_section(result: dict[str, Any]) -> Iterator[str]:
    """Figures and pictures; nothing where nothing was fitted."""
    if "skipped" in result:
        return
    yield "## Tokenizer"
    rows = [["kind", "squared error"], [NAMES[result["kind"]], f"{result['error']:.4f}"]]
    if "codes" in result:
        rows[0] += ["codes", "in use", "perplexity"]
        rows[1] += [f"{result['codes']:,}", f"{result['codes_used']:,}", f"{result['code_perplexity']:,.1f}"]
    else:
        rows[0] += ["components", "variance explained"]
        rows[1] += [f"{result['components']}", percent(result["explained_variance"])]
    yield table(rows)
    yield (
        f"Fitted before pretraining in {result['steps']:,} steps and judged on {result['samples']:,} images "
        f"{of_split(result['split'], 'fitted')}; the error is of normalised colours."
    )
    yield "![Curve of the tokenizer](tokenizer/pictures/curve.png)"
    yield "![Original, rebuilt](tokenizer/pictures/rebuilt.png)"
    yield f"Original beside rebuilt: {result['pictures_note']}."
