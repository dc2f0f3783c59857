"""The command `champion`: write the champion's weights to a file that a training can continue from."""

from pathlib import Path

from mae import registry
from mae.config import Params
from mae.stages.context.tracked_run import tracking_uri


def champion(params: Params, out: Path) -> None:
    """Write the champion encoder's method file to out/<sha256>.safetensors and print its path."""
    print(registry.champion_method(tracking_uri(params), params.registry.encoder, out))
