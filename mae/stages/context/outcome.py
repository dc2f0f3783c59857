"""The outcome of a stage in a small file, work/<stage>/outcome.json, for the process that started it.

    {"stage": "pretrain", "state": "interrupted", "message": "stopped after step 300; saved ...",
     "pid": 4711, "started": 1760000000.0, "ended": 1760000100.0, "run_id": "0f3c..."}

state: `running` from the start on, then `finished`, `interrupted`, `rejected` (settings or data that will not
do the next time either) or `failed`. A file that still says `running` while no process has its pid belongs to
a stage that was killed. ended and run_id: null until known. Nothing here imports torch: some stages are over
before it would be loaded.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae.addresses import redact
from mae.config.paths import OUTCOME
from mae.files import disk_trouble, read_json, write_json

if TYPE_CHECKING:
    from mae.config import Params

# By name: the modules that define these errors cost seconds to import. Any other error is `failed`.
STATES = {
    "Interrupted": "interrupted",
    "KeyboardInterrupt": "interrupted",
    "InvalidParams": "rejected",
    "TooManyRejected": "rejected",
}
_LOST_WORKER = re.compile(r"DataLoader worker \(pid.*\) (is killed by signal|exited unexpectedly)")
_log = logging.getLogger("mae.stages")


def explanation(error: BaseException) -> str | None:
    """Explain an error that a library raises and a person can mend: a disk's, a lost process; else None."""
    if isinstance(error, RuntimeError) and _LOST_WORKER.search(str(error)):
        return (
            "a process that loads images was killed, perhaps for lack of memory: run again, what is saved "
            f"is kept; fewer runtime.workers need less memory ({str(error).splitlines()[0].strip()})"
        )
    return disk_trouble(error)


def outcome_file(stage: str, params: Params) -> Path:
    """Return the path of a stage's outcome."""
    return Path(params.runtime.work_dir) / stage / OUTCOME


@contextmanager
def recorded_outcome(stage: str, params: Params) -> Iterator[None]:
    """Write the stage's outcome when the block starts and when it ends; on rank 0 only."""
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    file = outcome_file(stage, params)
    begun = {"stage": stage, "pid": os.getpid(), "started": time.time(), "ended": None, "run_id": None}
    write_json(file, begun | {"state": "running", "message": ""})
    try:
        yield
    except BaseException as error:
        message = explanation(error) or str(error) or type(error).__name__
        _end(file, STATES.get(type(error).__name__, "failed"), message)
        raise
    _end(file, "finished", "")


def record_run_id(stage: str, params: Params, run_id: str) -> None:
    """Add the tracking run to the outcome of this process's stage, where one is recorded."""
    file = outcome_file(stage, params)
    outcome = read_json(file) or {}
    if outcome.get("state") == "running" and outcome["pid"] == os.getpid():
        write_json(file, outcome | {"run_id": run_id})


def _end(file: Path, state: str, message: str) -> None:
    """Complete the file. A full disk must not hide how the stage ended: then it is only logged."""
    try:
        begun: dict[str, Any] = json.loads(file.read_text())
        write_json(file, begun | {"state": state, "message": redact(message), "ended": time.time()})
    except (OSError, RuntimeError, ValueError) as error:
        _log.warning("%s: the outcome `%s` could not be written: %s", file, state, error)
