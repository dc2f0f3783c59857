"""A client of the MLflow registry with its telemetry off and its waiting time bounded."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mae.addresses import redact, redact_address
from mae.time_limit import time_limit
from mae.tracking.server import QUIET, SQLITE, STORE, Rejected, Unreachable, open_database, resolve

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
# A server may be away for some minutes (2, 4 ... 128 s between the tries): hours of training precede a
# registration. MLflow's own defaults would wait for more than ten minutes.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "8",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "120",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
LIMIT_S = 7200.0  # for all that one step does there, uploads among it


class RegistryError(RuntimeError):
    """The registry cannot be used, or lacks the requested version or file."""


@contextlib.contextmanager
def registry(uri: str) -> Iterator[Any]:
    """Open an MlflowClient for the registry at `uri`. Raises RegistryError where it does not answer."""
    os.environ.update({key: os.environ.get(key, value) for key, value in QUIET.items()})
    address = resolve(uri)
    # A sqlite registry looks up logged models through a client of its own, which only knows the environment.
    changed = {key: os.environ.get(key, value) for key, value in PATIENCE.items()} | {STORE: address}
    before = {key: os.environ.get(key) for key in changed}
    os.environ.update(changed)
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        answers = (MlflowException, Rejected, Unreachable)
        failures = (*answers, RequestException, SQLAlchemyError, ImportError, TimeoutError)
        for name in ("mlflow.pyfunc", "mlflow.store.model_registry.abstract_store"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            if address.startswith(SQLITE):
                open_database(address)
            with time_limit(LIMIT_S, "the registration"):
                yield MlflowClient(address, registry_uri=address)
        except failures as error:
            first = (redact(str(error), address).splitlines() or [""])[0]
            # Without its cause, which a traceback would show with the password.
            raise RegistryError(f"the MLflow registry at {redact_address(uri)}: {first[:400]}") from None
    finally:
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})


def version_at(client: Any, name: str, alias: str) -> Any:
    """Get the model version that `alias` points to, or None."""
    number = aliases(client, name).get(alias)
    return client.get_model_version(name, number) if number is not None else None


def aliases(client: Any, name: str) -> dict[str, str]:
    """Map each alias of a registered model to a version number; {} where there is no such model."""
    model = _registered_model(client, name)
    return {} if model is None else {a: str(number) for a, number in model.aliases.items()}  # sqlite: int


def registered_tags(client: Any, name: str) -> dict[str, str]:
    """Get the tags of a registered model as a whole; {} where there is no such model."""
    model = _registered_model(client, name)
    return {} if model is None else dict(model.tags)


def _registered_model(client: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def weights_of(client: Any, version: Any, directory: Path) -> Path:
    """Get the local path of a version's safetensors file; a remote file is downloaded into `directory`.

    Raises RegistryError unless the version has exactly one.
    """
    folder = _artifact(client, version, "artifacts", directory)
    files = sorted(folder.rglob("*.safetensors"))
    if len(files) != 1:
        where = f"{version.name} version {version.version}"
        raise RegistryError(f"{where}: expected one safetensors file in {folder}, found {len(files)}")
    return files[0]


def model_config_of(client: Any, version: Any, directory: Path) -> dict[str, Any]:
    """Read the MLflow model config of a version, such as its `pool`; a remote file goes into `directory`."""
    from mlflow.models import Model

    card = Model.load(str(_artifact(client, version, "MLmodel", directory)))
    return dict(card.flavors["python_function"].get("config") or {})


def _artifact(client: Any, version: Any, name: str, directory: Path) -> Path:
    """Get the local path of a file or folder of a version. Raises RegistryError for a version not of ours."""
    import mlflow

    if "model_id" not in version.tags:
        raise RegistryError(f"{version.name} version {version.version}: the stage register did not make it")
    location = client.get_logged_model(version.tags["model_id"]).artifact_location.rstrip("/")
    path = mlflow.artifacts.download_artifacts(
        artifact_uri=f"{location}/{name}",
        dst_path=None if urlsplit(location).scheme in ("", "file") else str(directory),
        tracking_uri=client.tracking_uri,
    )
    return Path(path)
