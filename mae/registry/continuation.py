"""The start of a further training: the champion's whole method, stored next to its encoder."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae.files import copy, sha256_of
from mae.registry.client import CHAMPION, RegistryError, registry, version_at, weights_of

if TYPE_CHECKING:
    from mae.registry.model_versions import Registered

LOG = logging.getLogger("mae.registry")
FOLDER = "pretraining"  # in the model's artifacts, next to the served files
DIGEST = "method_digest"


class NoChampion(RegistryError):
    """No version of the model has been promoted yet."""


def store_method(client: Any, encoder: Registered, file: Path) -> None:
    """Store a method file next to a registered encoder, once; a tag of the version has its digest."""
    tags = client.get_model_version(encoder.name, encoder.version).tags
    if DIGEST in tags:
        return
    with tempfile.TemporaryDirectory() as folder:
        digest = sha256_of(file)
        named = Path(folder) / f"{digest}.safetensors"
        shutil.copyfile(file, named)
        client.log_model_artifact(encoder.model_id, str(named), FOLDER)
    client.set_model_version_tag(encoder.name, encoder.version, DIGEST, digest)
    LOG.info("stored the decoder of %s version %s, too", encoder.name, encoder.version)


def champion_method(uri: str, name: str, out: Path) -> Path:
    """Write the weights from which the champion of `name` can train on, as out/<its sha256>.safetensors.

    These are the whole method's weights, or the encoder's alone where the registry has no more. A complete
    file that exists already is not fetched again.
    Raises NoChampion; RegistryError where the registry does not answer, or gives bytes of another digest.
    """
    out.mkdir(parents=True, exist_ok=True)
    with registry(uri) as client:
        champion = version_at(client, name, CHAMPION)
        if champion is None:
            raise NoChampion(
                f"{name}: there is no champion yet; `dvc repro` registers and promotes a first one"
            )
        digest = champion.tags.get(DIGEST) or champion.tags.get("artifact_digest", "")
        target = out / f"{digest}.safetensors"
        if digest and target.is_file() and sha256_of(target) == digest:
            return target
        with tempfile.TemporaryDirectory(dir=out) as folder:
            if DIGEST in champion.tags:
                file = _fetch(client, champion, Path(folder))
            else:
                LOG.info("%s version %s was registered without its decoder", name, champion.version)
                file = weights_of(client, champion, Path(folder))
            digest = sha256_of(file)
            if digest != champion.tags.get(DIGEST, digest):
                raise RegistryError(
                    f"{name} version {champion.version}: its method file is damaged: sha256 {digest}, "
                    f"but its tag {DIGEST} says {champion.tags[DIGEST]}"
                )
            target = out / f"{digest}.safetensors"
            copy(file, target)
            return target


def _fetch(client: Any, champion: Any, folder: Path) -> Path:
    import mlflow

    model = client.get_logged_model(champion.tags["model_id"])
    path = f"{model.artifact_location.rstrip('/')}/{FOLDER}/{champion.tags[DIGEST]}.safetensors"
    return Path(
        mlflow.artifacts.download_artifacts(
            artifact_uri=path, dst_path=str(folder), tracking_uri=client.tracking_uri
        )
    )
