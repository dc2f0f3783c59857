"""The report's part on the model registry: versions, aliases, and the reason of each decision."""

from typing import Any

from mae.config import Params
from mae.config.paths import DECISION, read_result


def registry(results: dict[str, Any], params: Params) -> dict[str, Any]:
    """Give a row for each registered model, and the reason of the decision on each kind."""
    decision = read_result(DECISION)
    return {
        "models": [model for outcome in decision.values() for model in outcome["models"]],
        "reasons": {kind: outcome["reason"] for kind, outcome in decision.items()},
    }
