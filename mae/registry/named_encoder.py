"""A registered encoder by its address, models:/NAME@ALIAS or models:/NAME/VERSION, as it is served."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mae.registry.client import RegistryError, aliases, model_config_of, registry, weights_of

if TYPE_CHECKING:
    from mae.serving.pooled_encoder import InputTransform, PooledEncoder

_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<number>[0-9]+))")


def load_named(address: str, uri: str, pool: str | None) -> tuple[PooledEncoder, InputTransform]:
    """Load a registered encoder from the registry at `uri` as (model, transform).

    pool: in place of the one that it is served with. Raises RegistryError where the registry does not answer
    or lacks the model; ValueError for another address, and for a model that is no encoder.
    """
    from mae.serving.pooled_encoder import load_pooled

    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise ValueError(f"{address}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    with tempfile.TemporaryDirectory() as folder, registry(uri) as client:
        version = _version(client, found["name"], found["alias"], found["number"])
        file = weights_of(client, version, Path(folder))
        served_pool = model_config_of(client, version, Path(folder)).get("pool", "avg")
        return load_pooled(file, pool or served_pool)


def _version(client: Any, name: str, alias: str | None, number: str | None) -> Any:
    if alias is not None:
        known = aliases(client, name)
        if alias not in known:
            there = ", ".join(sorted(known)) or "none"
            raise RegistryError(f"{name}: no version has the alias {alias!r}; its aliases: {there}")
        number = known[alias]
    return client.get_model_version(name, number)
