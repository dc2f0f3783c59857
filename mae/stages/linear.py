"""The stage `linear`: a linear classifier on the frozen encoder."""

from mae.config import Params
from mae.stages.probing.frozen_probe import evaluate_frozen


def linear(params: Params) -> None:
    """Train and evaluate a linear classifier on frozen features (arXiv 2111.06377, appendix A.1)."""
    protocol = "linear" if params.linear.pool == "token" else "linear_mean"
    evaluate_frozen("linear", params, params.linear, protocol)
