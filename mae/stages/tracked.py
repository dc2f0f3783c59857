"""A stage's MLflow run and the identities that it leaves beside its results. Knows nothing of torch."""

import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mae import config, tracking
from mae.config import Params
from mae.data.files import write_json
from mae.stages.files import REPORTS

PARENT = "parent.json"
REPRODUCTION = "MAE_REPRODUCTION"  # set by a flow: the name that the runs of its stages have in common


def tracking_uri(params: Params) -> str:
    """MLFLOW_TRACKING_URI where it is set, as everywhere with MLflow; else the parameters'."""
    return os.environ.get("MLFLOW_TRACKING_URI") or params.runtime.tracking_uri


def parent_file(params: Params) -> Path:
    """The small file that names the run above this `dvc repro`'s runs."""
    return Path(params.runtime.work_dir) / PARENT


def stage_folder(stage: str, params: Params, sections: Sequence[str], inputs: Sequence[str] = ()) -> Path:
    """work/<stage>/<fingerprint>: of the seed, the stage's sections of params.yaml, its inputs' digests."""
    values = [getattr(params, section) for section in sections]
    return Path(params.runtime.work_dir).absolute() / stage / config.digest(params.seed, *values, *inputs)


@contextmanager
def tracked(
    stage: str,
    params: Params,
    sections: Sequence[str],
    *,
    folder: Path,
    device: str = "",
    run_id: str | None = None,
    enabled: bool = True,
    interruptions: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
) -> Iterator[tracking.Run]:
    """Open the stage's run (`run_id`: go on with that one); at the end write reports/<stage>/run.json.

    enabled: False on ranks other than 0. interruptions end it as KILLED, any other exception as FAILED.
    """
    began = time.time()
    device = device or platform.processor() or platform.machine()
    run = tracking.start(
        stage,
        uri=tracking_uri(params),
        experiment=params.runtime.experiment,
        directory=folder / "run",
        params={"seed": params.seed, **{name: getattr(params, name).model_dump() for name in sections}},
        tags={"device": device},
        parent_file=parent_file(params),
        new_parent=stage == "ingest",
        reproduction=os.environ.get(REPRODUCTION),
        run_id=run_id,
        enabled=enabled,
    )
    try:
        yield run
    except interruptions:
        run.finish("KILLED")
        raise
    except BaseException:
        run.finish("FAILED")
        raise
    if enabled:
        (REPORTS / stage).mkdir(parents=True, exist_ok=True)
        write_json(REPORTS / stage / "run.json", _identities(run, params, device, time.time() - began))
    run.finish("FINISHED")


def _identities(run: tracking.Run, params: Params, device: str, seconds: float) -> dict[str, Any]:
    """The address as it was given: these files go into git, a path or password of this machine must not."""
    commit = tracking.git_tags().get("git.commit", "unknown")
    return {
        "run_id": run.id,
        "tracking": tracking.redact(tracking_uri(params)),
        "commit": commit[:12],
        "device": device,
        "seconds": round(seconds, 1),
    }
