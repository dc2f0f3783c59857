"""MLflow runs: the only place that metrics and pictures go through.

    with tracking.start("pretrain", uri=..., experiment=..., directory=..., params=...) as run:
        run.log(step, {"loss": loss})

What is logged goes into `directory/metrics.jsonl` first and to the server when it answers; a server that is
down costs seconds, not the run, and `deliver` (the command `mae sync`) sends what is missing. MLflow and its
telemetry switch are handled inside the functions: importing this package imports no MLflow.
"""

from mae.tracking.locks import InUse
from mae.tracking.machine import git_tags
from mae.tracking.names import flatten
from mae.tracking.run import Run, start
from mae.tracking.run_files import history
from mae.tracking.sender import deliver, deliver_all
from mae.tracking.server import Rejected, Unreachable

__all__ = [
    "InUse",
    "Rejected",
    "Run",
    "Unreachable",
    "deliver",
    "deliver_all",
    "flatten",
    "git_tags",
    "history",
    "start",
]
