"""The report's part on cost: time, device, commit and MLflow run of each stage."""

from typing import Any

from mae.config import Params
from mae.config.paths import REPORTS, read_result


def cost(results: dict[str, Any], params: Params) -> dict[str, Any]:
    """Give a row for each stage that ran."""
    runs = {stage: read_result(REPORTS / stage / "run.json") for stage in results}
    return {
        "runs": [
            {
                "stage": stage,
                "seconds": run["seconds"],
                "rate": results[stage].get("images_per_second"),
                "device": run["device"],
                "commit": run["commit"],
                "dirty": run.get("dirty", False),
                "run_id": run["run_id"],
            }
            for stage, run in runs.items()
            if "skipped" not in run
        ]
    }
