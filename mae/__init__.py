"""Masked-autoencoder pretraining as a reproducible pipeline: raw images to a gated model in the registry."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # that of `typing`, whose import takes longer than all else here
if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from mae.serving.pooled_encoder import InputTransform, PooledEncoder


def _quiet(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an error that nobody caught, but for Ctrl-C, which libraries may have wrapped."""
    if kind is not KeyboardInterrupt and "KeyboardInterrupt" not in str(error):
        sys.__excepthook__(kind, error, trace)


def load(
    source: str | Path, *, pool: str | None = None, params: str | Path = "params.yaml"
) -> tuple[PooledEncoder, InputTransform]:
    """Load an encoder as (model, transform): `model(transform(image)[None])` is the served embedding (1, D).

    source: an encoder file (models/pretrain/encoder.safetensors), or a registered encoder,
    models:/NAME@ALIAS or models:/NAME/VERSION. pool: "avg" (the mean patch token) or "token" (the class
    token); by default that of the registered model, and "avg" for a file. params: the file whose
    `runtime.tracking_uri` names the registry, unless MLFLOW_TRACKING_URI does. The model is in evaluation
    mode, on the CPU; the transform takes a path, bytes, a PIL image or a uint8 tensor (3, H, W).

    Raises ValueError naming the file and its fault; RegistryError where the registry lacks the model.
    """
    if not str(source).startswith("models:"):
        from mae.serving.pooled_encoder import load_pooled

        return load_pooled(source, pool or "avg")
    import os

    from mae import config
    from mae.registry.named_encoder import load_named

    # A program in another folder names the registry without our params.yaml.
    uri = os.environ.get("MLFLOW_TRACKING_URI") or config.load(params).runtime.tracking_uri
    return load_named(str(source), uri, pool)


if sys.argv[:1] == ["-m"]:  # `python -m mae` or a flow, whose imports take seconds; not somebody's program
    sys.excepthook = _quiet
