"""A stage's MLflow run, and the record that it writes next to its results. Imports no torch."""

import logging
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mae import config, results, tracking
from mae.addresses import redact_address
from mae.config import Params
from mae.config.flows import REPRODUCTION
from mae.config.paths import MODELS_OF, REPORTS
from mae.files import read_json, sha256_of, write_json
from mae.stage_table import STAGES
from mae.stages.context.outcome import record_run_id

_log = logging.getLogger("mae.stages")
PARENT = "parent.json"


def tracking_uri(params: Params) -> str:
    """Return MLFLOW_TRACKING_URI where it is set, as MLflow itself does; else `runtime.tracking_uri`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or params.runtime.tracking_uri


def parent_file(params: Params) -> Path:
    """Return the path of the file that names the parent run of this `dvc repro`."""
    return Path(params.runtime.work_dir) / PARENT


def verified_file(params: Params) -> Path:
    """Return the record of the shards' files that were read and found whole (`Index.verify`)."""
    return Path(params.runtime.work_dir) / "verified.json"


def stage_folder(stage: str, params: Params, inputs: Sequence[str] = ()) -> Path:
    """Return work/<stage>/<fingerprint>, by the seed, the stage's sections, its inputs and its version.

    Version 1 adds nothing, so that folders of older releases are still found.
    """
    values = [getattr(params, section) for section in STAGES[stage].sections_in(params)]
    version = results.version_of(stage, params)
    raised = [f"version {version}"] if version > 1 else []
    fingerprint = config.digest(params.seed, *values, *inputs, *raised)
    return Path(params.runtime.work_dir).absolute() / stage / fingerprint


@contextmanager
def tracked(
    stage: str,
    params: Params,
    *,
    folder: Path,
    device: str = "",
    run_id: str | None = None,
    enabled: bool = True,
    interruptions: tuple[type[BaseException], ...] = (KeyboardInterrupt,),
    data: str | None = None,
) -> Iterator[tracking.Run]:
    """Open the stage's run (`run_id`: resume that one); at the end write reports/<stage>/run.json.

    enabled: False on ranks other than 0. interruptions end it as KILLED, any other exception as FAILED.
    data: the digest of what the stage reads. The record names the code that began the stage, whatever is
    checked out when it ends.
    """
    began = time.time()
    code = _code_that_began(stage, folder, resumes=run_id is not None) if enabled else None
    device = device or platform.processor() or platform.machine()
    run = tracking.start(
        stage,
        uri=tracking_uri(params),
        experiment=params.runtime.experiment,
        directory=folder / "run",
        params=_own(stage, params),
        tags={"device": device} | (_lineage(code) if code else {}),
        parent_file=parent_file(params),
        new_parent=stage == "ingest",
        reproduction=os.environ.get(REPRODUCTION),
        run_id=run_id,
        enabled=enabled,
    )
    try:
        if code is not None:
            record_run_id(stage, params, run.id)
            write_json(folder / "code.json", code.as_dict())
        yield run
        if code is not None:
            record = _record(run, params, device, time.time() - began) | _compared_code(stage, run, code)
            record |= {
                "params": _own(stage, params),
                "data": data,
                "version": results.version_of(stage, params),
            }
            if stage in MODELS_OF and MODELS_OF[stage].is_file():
                record["model"] = sha256_of(MODELS_OF[stage])
            write_json(REPORTS / stage / "run.json", record)
    except interruptions:
        run.finish("KILLED")
        raise
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish("FINISHED")


def _own(stage: str, params: Params) -> dict[str, Any]:
    """Return the parameters that the stage depends on, as plain values."""
    sections = STAGES[stage].sections_in(params)
    return {"seed": params.seed} | {name: getattr(params, name).model_dump(mode="json") for name in sections}


def _code_that_began(stage: str, folder: Path, *, resumes: bool) -> results.Code:
    """Take the code at the start; a resumed stage keeps that of its first start, and says if it differs."""
    now = results.code_now()
    if not resumes:
        return now
    noted = read_json(folder / "code.json")  # not there where an older release began the stage
    first = results.Code("unknown", None, "unknown") if noted is None else results.Code(**noted)
    if first.digest != now.digest:
        _log.warning("%s started with code %s and resumes with %s", stage, first.digest, now.digest)
    return first


def _lineage(code: results.Code) -> dict[str, str]:
    """Return the tags of the code that began the stage; MLflow's own tag of the commit is one of them."""
    return {
        "git.commit": code.commit,
        "mlflow.source.git.commit": code.commit,
        "git.dirty": results.spelled(code.dirty),
        "code.digest": code.digest,
    }


def _compared_code(stage: str, run: tracking.Run, code: results.Code) -> dict[str, Any]:
    """Compare the code of the start with the code of the end, and record whether it changed."""
    changed = results.code_digest() != code.digest
    if changed:
        _log.warning("the code changed while %s ran; recorded is the code that began it", stage)
        run.tags({"code.changed": "true"})
    record = {"commit": code.commit, "dirty": code.dirty, "code": code.digest}
    return record | ({"code_changed": True} if changed else {})


def _record(run: tracking.Run, params: Params, device: str, seconds: float) -> dict[str, Any]:
    """Describe the run; its address without a password, because these files are shared."""
    return {
        "run_id": run.id,
        "tracking": redact_address(tracking_uri(params)),
        "device": device,
        "seconds": round(seconds, 1),
    }
