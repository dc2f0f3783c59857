"""Masked-autoencoder pretraining as a reproducible pipeline: raw images to a gated model in the registry."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # that of `typing`, whose import takes longer than all else here
if TYPE_CHECKING:
    from types import TracebackType


def _quiet(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an error that nobody caught, but for Ctrl-C, which libraries may have wrapped."""
    if kind is not KeyboardInterrupt and "KeyboardInterrupt" not in str(error):
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # `python -m mae` or a flow, whose imports take seconds; not somebody's program
    sys.excepthook = _quiet
