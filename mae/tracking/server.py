"""The tracking server as this project uses it: the one place where runs are written through MLflow's client.

Every call is bounded (seconds; trying again is the caller's) and fails in one of two ways: `Unreachable`
(worth trying again later) or `Rejected` (it never will work: a bad name, a deleted run).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mae.addresses import redact, redact_address
from mae.files import atomic_path
from mae.time_limit import time_limit
from mae.tracking.locks import one_at_a_time
from mae.tracking.names import PARAM_LIMIT, TAG_LIMIT, clip, metric_name
from mae.tracking.run_files import RunInfo

LOG = logging.getLogger("mae.tracking")
STORE = "MLFLOW_TRACKING_URI"
SQLITE = "sqlite:///"
SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100  # MLflow refuses more
DIGEST_LIMIT = 36
PARENT_TAG = "mlflow.parentRunId"
KEY_TAG = "tracking.key"  # the run's own name for itself: it is known by it before the server gives an id
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
# For all of a call, also where the server sends a byte now and then; an upload has a second more for each MB.
CALL_S, UPLOAD_RATE = 12.0, 1e6
# MLflow's own defaults (7 retries of 120 s with back-off) would hold a training step for 15 minutes.
IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
REJECTED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")


class Unreachable(RuntimeError):
    """The tracking server did not answer, or answered that it cannot now."""


class Rejected(RuntimeError):
    """The tracking server answered, and will never take this."""


class Server:
    """One tracking store. `uri` is made absolute, so that it means the same from any directory.

    `address` is the same without password and query, for files and messages. Given back as `uri`, it stands
    for the address in MLFLOW_TRACKING_URI, the only place of a password.
    """

    def __init__(self, uri: str) -> None:
        own = os.environ.get(STORE, "")
        self.uri = resolve(own if own and redact_address(own) == uri else uri)
        self.address = redact_address(self.uri)
        self._client: Any = None

    @staticmethod
    def load() -> None:
        """Import MLflow, which takes seconds that are no server's fault."""
        os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
        import mlflow.tracking  # noqa: F401

    @contextlib.contextmanager
    def calls(self) -> Iterator[Any]:
        """Yield the MLflow client; translates what goes wrong inside into Unreachable and Rejected."""
        os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
        before = {key: os.environ.get(key) for key in IMPATIENT}
        os.environ.update(IMPATIENT)
        try:
            client = self._connect()
            with self._limit():
                yield client
        except (Unreachable, Rejected):
            raise
        except Exception as error:  # MLflow lets requests', SQLAlchemy's and botocore's through
            code = getattr(error, "error_code", None)
            first = redact(str(error), self.uri).splitlines()[:1]
            summary = f"{type(error).__name__}: {first[0].split(' (Caused by')[0][:240] if first else ''}"
            # Without its cause, which a traceback would show with the password.
            raise (Rejected if code in REJECTED else Unreachable)(summary) from None
        finally:
            for key, value in before.items():
                os.environ.pop(key, None) if value is None else os.environ.update({key: value})

    def _limit(self, size: int = 0) -> contextlib.AbstractContextManager[None]:
        """Bound a call that sends `size` bytes. A file is no server: sqlite has a time-out of its own."""
        if self.uri.startswith(SQLITE):
            return contextlib.nullcontext()
        return time_limit(CALL_S + size / UPLOAD_RATE, f"a call to {self.address}")

    def _connect(self) -> Any:
        if self._client is None:
            from mlflow.tracking import MlflowClient  # 4-5 s

            if not self.uri.startswith(("http", "databricks")):
                with self._limit():
                    open_database(self.uri)
            self._client = MlflowClient(self.uri, registry_uri=self.uri)
        return self._client

    def experiment_id(self, name: str) -> str:
        """Return the experiment's id; it is created if there is none (and revived if deleted)."""
        with self.calls() as client:
            found = client.get_experiment_by_name(name)
            if found is None:
                with contextlib.suppress(Exception):  # someone else may have been first
                    return client.create_experiment(name, artifact_location=self.artifact_location())
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise Unreachable(f"the experiment {name!r} could not be created")
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)
            return found.experiment_id

    def artifact_location(self) -> str | None:
        """Return the folder next to a sqlite file (MLflow takes the current one); else the server's own."""
        if not self.uri.startswith("sqlite"):
            return None
        return (Path(self.uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri()

    def ensure_run(self, experiment: str, info: RunInfo, parent_id: str | None = None) -> str:
        """Return the id of the run with the key of `info`; it is created where the experiment has none."""
        tags = info.tags | ({PARENT_TAG: parent_id} if parent_id else {}) | {KEY_TAG: info.key}
        tags = {key: clip(value, TAG_LIMIT) for key, value in tags.items()}
        where = f"tags.`{KEY_TAG}` = '{info.key}'"
        try:
            experiment_id = self.experiment_id(experiment)
            with self.calls() as client:
                found = client.search_runs([experiment_id], where, max_results=1)
                run = found[0] if found else client.create_run(experiment_id, info.started, tags, info.name)
                return str(run.info.run_id)
        except Rejected as error:
            raise Unreachable(f"the run could not be created: {error}") from error

    def find_run(self, run_id: str) -> Any:
        """Return the MLflow run; None if this store has none of that id, or only a deleted one."""
        try:
            with self.calls() as client:
                run = client.get_run(run_id)
        except Rejected:
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def end(self, run_id: str, status: str, time_ms: int) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        with self.calls() as client:
            client.set_terminated(run_id, status, time_ms)

    def perform(
        self, run_id: str, lines: Sequence[dict[str, Any]], *, copies: Path, parent_id: str | None = None
    ) -> None:
        """Take lines of metrics.jsonl: at most METRICS_PER_CALL metrics, or one event.

        copies: the folder of artifacts to send. parent_id: the run that takes each state of this one, too.
        """
        event = lines[0]
        runs = [run_id] if parent_id is None else [run_id, parent_id]
        with self.calls() as client:
            match event.get("op"):
                case None:
                    client.log_batch(run_id, metrics=_metrics(lines))
                case "start":
                    for run in runs:
                        client.update_run(run, status="RUNNING")
                    if parent_id is not None:  # a resumed run may have had another
                        client.set_tag(run_id, PARENT_TAG, parent_id)
                case "end":
                    for run in runs:
                        self.end(run, event["status"], event["time"])
                case "params":
                    self._log_params(client, run_id, event["values"])
                case "tags":
                    client.log_batch(run_id, tags=_tags(event["values"]))
                case "dataset":
                    client.log_inputs(run_id, datasets=[_dataset_input(event)])
                case "artifact":
                    copy = copies / str(event["copy"])
                    if not copy.exists():
                        raise Rejected(f"{event['name']}: the copy of the file is gone")
                    with self._limit(sum(file.stat().st_size for file in copy.rglob("*"))):
                        client.log_artifacts(run_id, str(copy), event["folder"] or None)

    def _log_params(self, client: Any, run_id: str, params: dict[str, str]) -> None:
        """Send params. They cannot change: another value after a resume becomes the tag `resumed.<name>`."""
        from mlflow.entities import Param

        there = client.get_run(run_id).data.params
        values = {key: clip(value, PARAM_LIMIT) for key, value in params.items()}
        new = [Param(key, value) for key, value in values.items() if key not in there]
        for start in range(0, len(new), PARAMS_PER_CALL):
            client.log_batch(run_id, params=new[start : start + PARAMS_PER_CALL])
        changed = {key: value for key, value in values.items() if there.get(key, value) != value}
        if changed:
            tags = _tags({f"resumed.{key}": value for key, value in changed.items()})
            client.log_batch(run_id, tags=tags[:PARAMS_PER_CALL])
        if any(len(value) > PARAM_LIMIT for value in params.values()):
            client.log_dict(run_id, params, "params.json")

    def location(self, run_id: str | None) -> str:
        """Return the address of the run's page, or the store and the id."""
        if self.uri.startswith("http") and run_id:
            return f"{self.address.rstrip('/')}/#/runs/{run_id}"
        return f"{self.address} run {run_id or '(not created yet)'}"


def resolve(uri: str) -> str:
    """Make a sqlite path in `uri` absolute; ValueError for a store that MLflow 3 does not take."""
    if uri.split(":", 1)[0].split("+", 1)[0] not in SCHEMES:
        raise ValueError(
            f"tracking address {redact_address(uri)!r}: expected sqlite:///mlflow.db, http(s)://host:port or "
            "a database URL (MLFLOW_TRACKING_URI, or runtime.tracking_uri in params.yaml)"
        )
    return SQLITE + str(Path(uri.removeprefix(SQLITE)).absolute()) if uri.startswith(SQLITE) else uri


def open_database(uri: str) -> None:
    """Open a store that is a database, once: MLflow would try again for 102 s. Raises Unreachable.

    A new sqlite file gets its tables first, and then its name: after a kill, MLflow could never use a part.
    """
    import sqlalchemy

    try:
        if uri.startswith(SQLITE):
            _make_sqlite(Path(uri.removeprefix(SQLITE)))
        with contextlib.closing(sqlalchemy.create_engine(uri).connect()) as connection:
            sqlalchemy.inspect(connection).get_table_names()
    except Exception as error:  # the driver's, or that of a driver that is not installed
        reason = (redact(str(error), uri).splitlines() or [""])[0]
        raise Unreachable(
            f"{redact_address(uri)} cannot be opened ({reason}): correct MLFLOW_TRACKING_URI or "
            "runtime.tracking_uri, or make it a database that this user may write"
        ) from None


def _make_sqlite(file: Path) -> None:
    """Make the file with MLflow's tables where there is none; of stages that start side by side, one does."""
    from mlflow.tracking import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils"):  # thirty lines about a new file
        logging.getLogger(name).setLevel(logging.WARNING)
    with one_at_a_time(file):
        if not file.exists():
            with atomic_path(file) as part:
                MlflowClient(SQLITE + str(part))


def _metrics(lines: Sequence[dict[str, Any]]) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(metric_name(key), float(value), int(line["time"] * 1000), line["step"])
        for line in lines
        for key, value in line.items()
        if key not in ("step", "time")
    ]


def _tags(values: dict[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(key, clip(value, TAG_LIMIT)) for key, value in values.items()]


def _dataset_input(op: dict[str, Any]) -> Any:
    import json

    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": op["source"]})
    dataset = Dataset(op["name"], op["digest"][:DIGEST_LIMIT], "local", source)
    tags = [InputTag("mlflow.data.context", op["context"]), InputTag("digest", op["digest"])]
    return DatasetInput(dataset, tags)
