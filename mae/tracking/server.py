"""The tracking server as this project uses it: the one place where runs are written through MLflow's client.

Every call is bounded (seconds; trying again is the caller's) and fails in one of two ways: `Unreachable`
(worth trying again later) or `Rejected` (it never will work: a bad name, a deleted run).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mae.tracking.holding import one_at_a_time
from mae.tracking.names import PARAM_LIMIT, TAG_LIMIT, clip, metric_name, redact
from mae.tracking.spool import now_ms

LOG = logging.getLogger("mae.tracking")
SQLITE = "sqlite:///"
SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100  # MLflow refuses more
DIGEST_LIMIT = 36
PARENT_TAG = "mlflow.parentRunId"
KEY_TAG = "tracking.key"  # of the run's own making: what it is known by before the server names it
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
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
    """One tracking store. `uri` is made absolute, so that it means the same from any directory."""

    def __init__(self, uri: str) -> None:
        self.uri = resolve(uri)
        self._client: Any = None

    @staticmethod
    def load() -> None:
        """Import MLflow, which takes seconds that are no server's fault."""
        os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
        import mlflow.tracking  # noqa: F401

    @contextlib.contextmanager
    def calls(self) -> Iterator[Any]:
        """Yields the MLflow client; translates what goes wrong inside into Unreachable and Rejected."""
        os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
        before = {key: os.environ.get(key) for key in IMPATIENT}
        os.environ.update(IMPATIENT)
        try:
            yield self._connect()
        except (Unreachable, Rejected):
            raise
        except Exception as error:  # MLflow lets requests', SQLAlchemy's and botocore's through
            code = getattr(error, "error_code", None)
            first = redact(str(error)).splitlines()[:1]
            summary = f"{type(error).__name__}: {first[0].split(' (Caused by')[0][:240] if first else ''}"
            raise (Rejected if code in REJECTED else Unreachable)(summary) from error
        finally:
            for key, value in before.items():
                os.environ.pop(key, None) if value is None else os.environ.update({key: value})

    def _connect(self) -> Any:
        if self._client is None:
            from mlflow.tracking import MlflowClient  # 4-5 s

            for name in ("alembic", "mlflow.store.db.utils"):  # thirty lines about a new sqlite file
                logging.getLogger(name).setLevel(logging.WARNING)
            # MLflow makes a new file's tables here; two stages that start side by side would both.
            file = self.uri.removeprefix(SQLITE)
            with one_at_a_time(Path(f"{file}.lock")) if file != self.uri else contextlib.nullcontext():
                self._client = MlflowClient(self.uri, registry_uri=self.uri)
        return self._client

    def experiment_id(self, name: str) -> str:
        """The experiment's id; it is created if there is none (and revived if deleted)."""
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
        """Beside the file for sqlite (MLflow's default is the current directory); else the server's own."""
        if not self.uri.startswith("sqlite"):
            return None
        return (Path(self.uri.removeprefix(SQLITE)).parent / "mlartifacts").as_uri()

    def create_run(self, state: dict[str, Any], parent_run_id: str | None) -> str:
        from_parent = {PARENT_TAG: parent_run_id} if parent_run_id else {}
        tags = {**state["tags"], **from_parent, KEY_TAG: state["key"]}
        tags = {key: clip(value, TAG_LIMIT) for key, value in tags.items()}
        with self.calls() as client:
            run = client.create_run(
                state["experiment_id"], start_time=state["started"], tags=tags, run_name=state["stage"]
            )
            return run.info.run_id

    def made(self, state: dict[str, Any]) -> str | None:
        """The id of the run that `create_run` made though nobody heard the answer; None if there is none."""
        with self.calls() as client:
            where = f"tags.`{KEY_TAG}` = '{state['key']}'"
            found = client.search_runs([state["experiment_id"]], where, max_results=1)
            return str(found[0].info.run_id) if found else None

    def find_run(self, run_id: str) -> Any:
        """The MLflow run, or None if this store has none of that id, or only a deleted one."""
        try:
            with self.calls() as client:
                run = client.get_run(run_id)
        except Rejected:
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def reopen(self, run_id: str, tags: dict[str, str]) -> None:
        with self.calls() as client:
            client.update_run(run_id, status="RUNNING")
        self.perform(run_id, {"op": "tags", "values": tags})

    def perform(self, run_id: str, op: dict[str, Any]) -> None:
        """Do one queued thing: params, tags, dataset, artifact or text."""
        with self.calls() as client:
            match op["op"]:
                case "params":
                    self._log_params(client, run_id, op["values"])
                case "tags":
                    from mlflow.entities import RunTag

                    values = {key: clip(value, TAG_LIMIT) for key, value in op["values"].items()}
                    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in values.items()])
                case "dataset":
                    client.log_inputs(run_id, datasets=[_dataset_input(op)])
                case "artifact":
                    if not Path(op["path"]).exists():
                        raise Rejected(f"{op['path']}: the file is gone")
                    log = client.log_artifacts if Path(op["path"]).is_dir() else client.log_artifact
                    log(run_id, op["path"], op["folder"] or None)
                case "text":
                    client.log_text(run_id, op["text"], op["file"])

    def _log_params(self, client: Any, run_id: str, params: dict[str, str]) -> None:
        """Params cannot change: one that a resumed run has otherwise becomes the tag `resumed.<name>`."""
        from mlflow.entities import Param, RunTag

        there = client.get_run(run_id).data.params
        values = {key: clip(value, PARAM_LIMIT) for key, value in params.items()}
        new = [Param(key, value) for key, value in values.items() if key not in there]
        for start in range(0, len(new), PARAMS_PER_CALL):
            client.log_batch(run_id, params=new[start : start + PARAMS_PER_CALL])
        changed = {key: value for key, value in values.items() if there.get(key, value) != value}
        if changed:
            tags = [RunTag(f"resumed.{key}", clip(value, TAG_LIMIT)) for key, value in changed.items()]
            client.log_batch(run_id, tags=tags[:PARAMS_PER_CALL])
        if any(len(value) > PARAM_LIMIT for value in params.values()):
            client.log_dict(run_id, params, "params.json")

    def log_metrics(self, run_id: str, lines: Iterable[dict[str, Any]]) -> None:
        """Send lines of metrics.jsonl, of at most METRICS_PER_CALL values together."""
        with self.calls() as client:
            from mlflow.entities import Metric

            points = [
                Metric(metric_name(key), float(value), int(line["time"] * 1000), line["step"])
                for line in lines
                for key, value in line.items()
                if key not in ("step", "time")
            ]
            if points:
                client.log_batch(run_id, metrics=points)

    def close(self, run_id: str, status: str, ended: int | None = None) -> None:
        with self.calls() as client:
            client.set_terminated(run_id, status, ended or now_ms())

    def running(self, experiment_id: str, host: str) -> list[Any]:
        """The experiment's runs that are RUNNING and were started on the machine `host`."""
        with self.calls() as client:
            where = f"attributes.status = 'RUNNING' and tags.host = '{host}'"
            return list(client.search_runs([experiment_id], where, max_results=1000))

    def location(self, state: dict[str, Any]) -> str:
        """Where a person finds the run: a page's address, or the store and the id."""
        if self.uri.startswith("http") and state["run_id"]:
            return f"{self.uri.rstrip('/')}/#/experiments/{state['experiment_id']}/runs/{state['run_id']}"
        return f"{redact(self.uri)} run {state['run_id'] or '(not created yet)'}"


def resolve(uri: str) -> str:
    """`uri` with a sqlite path made absolute; ValueError for a store that MLflow 3 does not take."""
    if uri.split(":", 1)[0].split("+", 1)[0] not in SCHEMES:
        raise ValueError(
            f"tracking address {uri!r}: expected sqlite:///mlflow.db, http(s)://host:port or a database URL "
            "(MLFLOW_TRACKING_URI, or runtime.tracking in params.yaml)"
        )
    return SQLITE + str(Path(uri.removeprefix(SQLITE)).absolute()) if uri.startswith(SQLITE) else uri


def _dataset_input(op: dict[str, Any]) -> Any:
    import json

    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": op["source"]})
    profile = json.dumps(op["profile"]) if op.get("profile") else None
    dataset = Dataset(op["name"], op["digest"][:DIGEST_LIMIT], "local", source, profile=profile)
    tags = [InputTag("mlflow.data.context", op["context"]), InputTag("digest", op["digest"])]
    return DatasetInput(dataset, tags)
