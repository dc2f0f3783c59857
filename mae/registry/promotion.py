"""Who is champion: promoting, keeping and rolling back models, those that were registered together as one."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mae.registry.gate import Decision
from mae.registry.models import Registered
from mae.registry.store import (
    CHAMPION,
    PREVIOUS,
    RegistryError,
    aliases,
    registry,
    version_at,
    weights_of,
)

LOG = logging.getLogger("mae.registry")
INTENT = "gate.intent"  # on a version while its promotion is under way


def champion_files(uri: str, name: str, directory: Path | None = None) -> Path | None:
    """The safetensors file of the champion of `name` (downloaded where it is remote), or None without one."""
    with registry(uri) as client:
        champion = version_at(client, name, CHAMPION)
        return None if champion is None else weights_of(client, champion, directory)


def champion_version(uri: str, name: str) -> str | None:
    with registry(uri) as client:
        return aliases(client, name).get(CHAMPION)


def conclude(uri: str, candidate: dict[str, Registered], decision: Decision) -> dict[str, Any]:
    """Write the gate's decision onto the candidate's versions and, if it says so, make them champions.

    There is a champion at every moment: an alias moves in one step, and what it pointed to is kept as
    `previous` first. The decision is written last, so that one that a kill interrupted is taken again.
    Returns what happened, for the register stage's report.
    """
    models = list(candidate.values())
    with registry(uri) as client:
        if decision.promote:
            _make_champions(client, models)
        for model in models:
            if model.judged and not decision.promote:
                continue  # an encoder that was promoted with another classifier keeps that record
            tags = {"gate.reason": decision.reason, "gate.numbers": json.dumps(decision.as_dict())}
            if decision.promote:
                tags["promoted_at"] = _now()
            tags["gate.decision"] = "promoted" if decision.promote else "kept the champion"
            _tag(client, model.name, model.version, tags)
        if decision.promote:
            client.delete_model_version_tag(models[-1].name, models[-1].version, INTENT)
    LOG.info("%s: %s", "promoted" if decision.promote else "not promoted", decision.reason)
    return {**decision.as_dict(), "models": summary(uri, [model.name for model in models])}


def recorded(uri: str, candidate: dict[str, Registered]) -> dict[str, Any]:
    """What `conclude` returned when this candidate was judged, with the aliases as they are now."""
    models = list(candidate.values())
    with registry(uri) as client:
        last = models[-1]
        tags = client.get_model_version(last.name, last.version).tags
    return {**json.loads(tags["gate.numbers"]), "models": summary(uri, [model.name for model in models])}


def rollback(uri: str, names: list[str]) -> list[dict[str, Any]]:
    """Make the previous champions champions again; the ones they replace become `previous`.

    names: models that were registered together, and so go back together.
    Raises RegistryError, before anything is changed, where a model has no previous champion.
    """
    with registry(uri) as client:
        found = {name: aliases(client, name) for name in names}
        for name, there in found.items():
            if PREVIOUS not in there or CHAMPION not in there:
                raise RegistryError(f"{name}: there is no previous champion to go back to")
        if all(there[PREVIOUS] == there[CHAMPION] for there in found.values()):
            raise RegistryError(f"{', '.join(names)}: the previous champion is the champion already")
        for name, there in found.items():
            client.set_registered_model_alias(name, CHAMPION, there[PREVIOUS])
        for name, there in found.items():
            client.set_registered_model_alias(name, PREVIOUS, there[CHAMPION])
            if there[PREVIOUS] != there[CHAMPION]:
                _tag(client, name, there[CHAMPION], {"rolled_back_at": _now()})
                _tag(client, name, there[PREVIOUS], {"restored_at": _now()})
    return summary(uri, names)


def summary(uri: str, names: list[str]) -> list[dict[str, Any]]:
    """Every aliased version of the models: [{"name", "version", "aliases"}]."""
    rows = []
    with registry(uri) as client:
        for name in names:
            by_version: dict[str, list[str]] = {}
            for alias, number in aliases(client, name).items():
                by_version.setdefault(str(number), []).append(alias)
            for number in sorted(by_version, key=int, reverse=True):
                rows.append({"name": name, "version": number, "aliases": sorted(by_version[number])})
    return rows


def _make_champions(client: Any, models: list[Registered]) -> None:
    """Keep the champions as `previous`, then move the alias; repeats itself after a kill half-way.

    What was champion before anything moved is noted on the last model first, and holds until the decision is
    written: read again half-way, the aliases would call a new champion the previous one.
    """
    last = models[-1]
    tags = client.get_model_version(last.name, last.version).tags
    if INTENT in tags:
        before = json.loads(tags[INTENT])
    else:
        before = {model.name: aliases(client, model.name).get(CHAMPION) for model in models}
        _tag(client, last.name, last.version, {INTENT: json.dumps(before)})
    for model in models:
        if before[model.name] is not None:
            client.set_registered_model_alias(model.name, PREVIOUS, before[model.name])
    for model in models:
        client.set_registered_model_alias(model.name, CHAMPION, model.version)


def _tag(client: Any, name: str, version: str, tags: dict[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value[:5000])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
