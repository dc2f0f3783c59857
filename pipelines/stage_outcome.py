"""The outcome of a stage, read from the record that it leaves, and from what DVC remembers of its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mae.addresses import redact_address
from mae.config.paths import OUTCOME, REPORTS
from mae.files import read_json
from mae.stage_table import STAGES
from pipelines.graph import recorded_results
from pipelines.guard import EXIT_LIMIT, PREFIX

LOCAL_MLFLOW_UI = "http://127.0.0.1:5000"  # `make ui`
LAST_LINES = 2  # of a command that left no record: its own last line, and DVC's

State = Literal["Ran", "Unchanged", "Restored", "Failed", "TimedOut", "Rejected", "Interrupted", "Skipped"]
STATES: dict[str, State] = {"interrupted": "Interrupted", "rejected": "Rejected"}  # any other one is Failed


@dataclass(frozen=True)
class Outcome:
    """The end of a stage in a flow.

    Attributes:
        seconds: wall time.
        mlflow_url: the page of its MLflow run, if it has one.
    """

    stage: str
    state: State
    seconds: float = 0.0
    message: str = ""
    mlflow_url: str | None = None

    @property
    def done(self) -> bool:
        """True where the outputs of the stage exist and are up to date."""
        return self.state in ("Ran", "Unchanged", "Restored")


class OutcomeReader:
    """One attempt at a stage: remembers the records from before it, and reads its outcome after it.

    Args:
        root: the working copy.
        work_dir: `runtime.work_dir`, absolute or below `root`.
    """

    def __init__(self, root: Path, work_dir: Path, stage: str) -> None:
        self._root, self._stage = root, stage
        self._file = root / work_dir / stage / OUTCOME
        self._record, self._results = self._read(), recorded_results(root, stage)

    def read(self, status: int, lines: Sequence[str]) -> tuple[State, str]:
        """Return the state and a message for people.

        Args:
            status: the exit status of `dvc repro` under guard.
            lines: the last lines that it printed.
        """
        record = self._read()
        if record == self._record:
            record = {}  # of an earlier run: the command of the stage has not run now, or leaves no record
        if status == 0:
            return "Ran" if record else self._state_without_record(), ""
        return self._failed_state(status, record, lines), _message(status, record, lines)

    def _state_without_record(self) -> State:
        """Describe the work of DVC where the stage left no new record, and did not fail."""
        if recorded_results(self._root, self._stage) == self._results:
            return "Unchanged"
        # A command of another program leaves no record: DVC may have run or restored it.
        return "Restored" if self._stage in STAGES else "Ran"

    def _failed_state(self, status: int, record: dict[str, Any], lines: Sequence[str]) -> State:
        if status == EXIT_LIMIT:
            return "TimedOut"
        if any(line.startswith(PREFIX) for line in lines):
            return "Interrupted"
        return STATES.get(record.get("state", ""), "Failed")

    def _read(self) -> dict[str, Any]:
        """Read the record; {} where there is none, or a damaged one."""
        return read_json(self._file) or {}


def _message(status: int, record: dict[str, Any], lines: Sequence[str]) -> str:
    """Join the stage's own words, or the last lines of a command that left none, and the guard's reason."""
    reasons = [line.removeprefix(PREFIX) for line in lines if line.startswith(PREFIX)]
    if record.get("state") == "running" and not reasons:
        words = [f"the process of {record['stage']} was killed"]
    elif record.get("state") in ("interrupted", "rejected", "failed"):
        words = [record["message"]]
    else:
        words = [line for line in lines if not line.startswith(PREFIX)][-LAST_LINES:]
    return " - ".join(filter(None, [*words, *reasons[:1]])) or f"exited with {status}"


def mlflow_url(root: Path, stage: str, pages: str | None = None) -> str | None:
    """Return the page of the run that reports/<stage>/run.json names.

    The page is below `pages`, else on the run's tracking server, else on the local one of `make ui`.
    """
    noted = read_json(Path(root) / REPORTS / stage / "run.json") or {}
    run_id, store = noted.get("run_id"), noted.get("tracking")
    if run_id is None or store is None:
        return None
    if run_id.startswith("offline-"):  # the server was away; `mae sync` delivers it
        return None
    base = pages or (store if store.startswith("http") else LOCAL_MLFLOW_UI)
    return f"{redact_address(base).rstrip('/')}/#/runs/{run_id}"
