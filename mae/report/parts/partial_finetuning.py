"""The report's part on partial fine-tuning: top-1 by the number of fine-tuned blocks."""

from typing import Any

from mae.config import Params
from mae.config.paths import REPORTS
from mae.files import read_csv


def partial_finetuning(results: dict[str, Any], params: Params) -> dict[str, Any] | None:
    """Give a row for each number of blocks; None where the stage was skipped."""
    if "skipped" in results["partial"]:
        return None
    return {"rows": read_csv(REPORTS / "partial" / "blocks.csv")}
