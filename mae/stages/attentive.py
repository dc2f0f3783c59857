"""The stage `attentive`: a classifier with one cross-attention on the frozen encoder."""

from mae.config import Params
from mae.stages.probing.frozen_probe import evaluate_frozen


def attentive(params: Params) -> None:
    """Train and evaluate one cross-attention over all frozen tokens, and a head (arXiv 2202.03026)."""
    evaluate_frozen("attentive", params, params.attentive, "attentive")
