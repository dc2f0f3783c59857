"""Registration of models, once each: the digest of the weights identifies a model."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae.files import sha256_of
from mae.registry.client import CHALLENGER, aliases, registry
from mae.registry.continuation import store_method
from mae.serving.model_file import config_of, kind_of
from mae.serving.packaging import save
from mae.tracking.names import clip
from mae.tracking.server import Server

LOG = logging.getLogger("mae.registry")
TAG_LIMIT = 5000


@dataclass(frozen=True)
class Registered:
    """A model version. created: it is new; decided: the gate decided about it before."""

    name: str
    version: str
    model_id: str
    digest: str
    created: bool
    decided: bool


def register(
    *,
    uri: str,
    experiment: str,
    models: Mapping[str, tuple[str, Path]],
    example: Callable[[], bytes],
    tags: Mapping[str, Mapping[str, Any]],
    run_id: str | None = None,
    pool: str = "avg",
    method: Path | None = None,
) -> dict[str, Registered]:
    """Log models, create their versions, and point `challenger` at them.

    The models of one call belong together: each names the others' versions, and `conclude` promotes all or
    none. A model whose weights the registry already has keeps its version and is not logged again.

    Args:
        models: kind ("encoder", "classifier", "detector", "segmenter") -> (name in the registry, file:
            safetensors with its config in the metadata, as `model_file.load_model` reads it).
        example: gives the bytes of a small real image, the models' input example; called for new models only.
        tags: kind -> lineage of that model (commit and code that trained it, digests of data and params).
        run_id: the MLflow run that registers; an id that this store does not have is left out.
        pool: the embedding of a served encoder: "avg" (mean of the patch tokens) or "token" (class token).
        method: the file of the whole method that the encoder is part of, stored for a further training.

    Raises RegistryError where the registry does not answer, ValueError for unusable files.
    """
    from mae.interchange import check_finite, open_weights

    if not models:
        raise ValueError("no model was named to register")
    for kind, (_, file) in models.items():
        if not file.is_file():
            raise ValueError(f"{file}: no such file to register")
        kind_of_file = kind_of(config_of(file), file)
        if kind_of_file != kind:
            raise ValueError(f"{file}: a file of kind {kind_of_file} cannot be registered as {kind}")
        check_finite(open_weights(file)[0], str(file))
    versions: dict[str, Registered] = {}
    with registry(uri) as client:
        for kind, (name, file) in models.items():
            digest = sha256_of(file)
            version = find(client, name, digest)
            if version is None:
                model_id = _log(
                    client, experiment, name, kind, file, digest, example(), run_id, {"pool": pool}
                )
                version = _create_version(client, name, kind, model_id, digest, run_id, tags[kind])
            versions[kind] = version
            if kind == "encoder" and method is not None:
                store_method(client, version, method)
        _link(client, versions)
        for model in versions.values():
            if aliases(client, model.name).get(CHALLENGER) != model.version:
                client.set_registered_model_alias(model.name, CHALLENGER, model.version)
    return versions


def find(client: Any, name: str, digest: str) -> Registered | None:
    """Find the usable version of `name` with these weights: its logged model still exists."""
    from mlflow.exceptions import MlflowException

    where = f"name = '{name}' and tags.`artifact_digest` = '{digest}'"
    for version in sorted(client.search_model_versions(where), key=lambda v: -int(v.version)):
        try:
            model = client.get_logged_model(version.tags.get("model_id", ""))
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                continue  # it was deleted; any other failure must not make a second version
            raise
        if version.status == "READY" and str(model.status) == "READY":
            decided = "gate.decision" in version.tags
            return Registered(name, str(version.version), model.model_id, digest, False, decided)
    return None


def _log(
    client: Any,
    experiment: str,
    name: str,
    kind: str,
    file: Path,
    digest: str,
    example: bytes,
    run_id: str | None,
    model_config: dict[str, Any],
) -> str:
    """Log the weights as a served model and return its id; one that was logged before is used again."""
    from mlflow.models import Model

    experiment_id = Server(client.tracking_uri).experiment_id(experiment)
    where = f"tags.artifact_digest = '{digest}'"
    for existing in client.search_logged_models([experiment_id], filter_string=where):
        if str(existing.status) == "READY" and existing.tags.get("kind") == kind:
            return existing.model_id
    logged = client.create_logged_model(
        experiment_id,
        name=re.sub(r"[/:.%\"']", "-", name),
        source_run_id=_known_run(client, run_id),
        tags={"artifact_digest": digest, "kind": kind},
        params={key: clip(str(value), 500) for key, value in _about(config_of(file)).items()},
        model_type=kind,
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "model"
            card = Model(
                artifact_path=logged.artifact_location,
                run_id=_known_run(client, run_id),
                model_id=logged.model_id,
                model_uuid=logged.model_id,
            )
            save(target, kind, file, example, card, model_config)
            client.log_model_artifacts(logged.model_id, str(target))
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    return logged.model_id


def _create_version(
    client: Any,
    name: str,
    kind: str,
    model_id: str,
    digest: str,
    run_id: str | None,
    tags: Mapping[str, Any],
) -> Registered:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # MLflow tries for 4.5 minutes to make a version of a model that the store does not have: ask first.
    model = client.get_logged_model(model_id)
    texts = {key: clip(str(value), TAG_LIMIT) for key, value in tags.items()}
    texts |= {"artifact_digest": digest, "model_id": model_id, "kind": kind}
    version = client.create_model_version(
        name,
        source=model.artifact_location,
        run_id=_known_run(client, run_id),
        tags=texts,
        model_id=model_id,
        await_creation_for=60,
    )
    LOG.info("registered %s version %s", name, version.version)
    return Registered(name, str(version.version), model_id, digest, created=True, decided=False)


def _about(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a config into a table; lists of names, which no table holds, become their length."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("classes", "categories"):
            flat[key] = len(value)
        elif isinstance(value, Mapping):
            flat |= {f"{key}.{name}": inner for name, inner in _about(value).items()}
        else:
            flat[key] = value
    return flat


def _link(client: Any, versions: dict[str, Registered]) -> None:
    """Tag each version with its partners: the gate decides about them together."""
    for kind, model in versions.items():
        tags = client.get_model_version(model.name, model.version).tags if len(versions) > 1 else {}
        for partner, other in versions.items():
            if partner != kind and tags.get(f"{partner}_version") != other.version:
                client.set_model_version_tag(model.name, model.version, f"{partner}_version", other.version)


def _known_run(client: Any, run_id: str | None) -> str | None:
    from mlflow.exceptions import MlflowException

    if not run_id or run_id.startswith("offline-"):
        return None
    try:
        return client.get_run(run_id).info.run_id
    except MlflowException:
        return None
