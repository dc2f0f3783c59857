"""Promotion and rollback of champions. Models that were registered together move together."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mae.registry.client import (
    CHAMPION,
    PREVIOUS,
    RegistryError,
    aliases,
    registered_tags,
    registry,
    version_at,
    weights_of,
)
from mae.registry.gate import Decision
from mae.registry.model_versions import Registered

LOG = logging.getLogger("mae.registry")
INTENT = "gate.intent"  # on a registered model while aliases move: the whole change, written beforehand


def champion_files(uri: str, name: str, directory: Path) -> Path | None:
    """Get the safetensors file of the champion of `name`, or None; a remote file goes into `directory`."""
    with registry(uri) as client:
        champion = version_at(client, name, CHAMPION)
        return None if champion is None else weights_of(client, champion, directory)


def champion_version(uri: str, name: str) -> str | None:
    """Get the version number of the champion of `name`, or None."""
    with registry(uri) as client:
        return aliases(client, name).get(CHAMPION)


class Overtaken(RegistryError):
    """The champion is no longer the model that the candidate was compared with."""


def conclude(
    uri: str, candidate: dict[str, Registered], decision: Decision, against: Mapping[str, str | None]
) -> dict[str, Any]:
    """Write the gate's decision into the tags of the candidate's versions; make them champions if it says so.

    against: each model's `champion_version` at the comparison. Raises Overtaken, before anything is changed,
    where the champion is another one now: two working copies share a registry, or a rollback came meanwhile.

    There is a champion at every moment: an alias moves in one step. `finish` completes a promotion that a
    kill interrupted. Returns the decision and the aliases, for the report of the stage `register`.
    """
    models = list(candidate.values())
    result = {"gate.reason": decision.reason, "gate.numbers": json.dumps(decision.as_dict())}
    with registry(uri) as client:
        for model in models:
            now = aliases(client, model.name).get(CHAMPION)
            if now != against[model.name]:
                raise Overtaken(
                    f"{model.name}: version {now} is champion now, not {against[model.name]}; "
                    "compare with it and conclude again"
                )
        if decision.promote:
            moves = {model.name: {CHAMPION: model.version, PREVIOUS: against[model.name]} for model in models}
            result |= {"promoted_at": _now(), "gate.decision": "promoted"}
            tags = [[model.name, model.version, result] for model in models]
            _begin(client, {"what": "promotion", "aliases": moves, "tags": tags})
        else:
            result |= {"gate.decision": "kept the champion"}
            for model in models:
                # An encoder that was promoted with another classifier keeps the record of that decision.
                if not model.decided:
                    _tag(client, model.name, model.version, result)
    LOG.info("%s: %s", "promoted" if decision.promote else "not promoted", decision.reason)
    return {**decision.as_dict(), "models": summary(uri, [model.name for model in models])}


def finish(uri: str, names: list[str]) -> str | None:
    """Complete a promotion or rollback that a kill or a lost server interrupted; return its name, or None.

    names: models that were registered together. Call this before comparing with, or moving, champions.
    """
    with registry(uri) as client:
        intent = _open_intent(client, names)
        if intent is None:
            return None
        LOG.warning("finishing a %s of %s that was interrupted", intent["what"], ", ".join(intent["aliases"]))
        _carry_out(client, intent)
        return str(intent["what"])


def recorded(uri: str, candidate: dict[str, Registered]) -> dict[str, Any]:
    """Read what `conclude` returned for this candidate, with the aliases as they are now."""
    models = list(candidate.values())
    with registry(uri) as client:
        last = models[-1]
        tags = client.get_model_version(last.name, last.version).tags
    return {**json.loads(tags["gate.numbers"]), "models": summary(uri, [model.name for model in models])}


def rollback(uri: str, names: list[str]) -> list[dict[str, Any]]:
    """Make the previous champions champions again; the replaced ones become `previous`.

    names: models that were registered together, and so go back together. An interrupted rollback is only
    completed: a second one would undo it. Returns the champions and previous champions, as `summary` does.
    Raises RegistryError, before anything is changed, where a model has no previous champion.
    """
    with registry(uri) as client:
        intent = _open_intent(client, names)
        if intent is not None:
            _carry_out(client, intent)
        if intent is None or intent["what"] != "rollback":
            intent = _rollback_intent(client, names)
            _begin(client, intent)
    return [
        {"name": name, "version": version, "aliases": [alias]}
        for name, moved in intent["aliases"].items()
        for alias, version in moved.items()
    ]


def _rollback_intent(client: Any, names: list[str]) -> dict[str, Any]:
    current = {name: aliases(client, name) for name in names}
    for name, versions in current.items():
        if PREVIOUS not in versions or CHAMPION not in versions:
            raise RegistryError(f"{name}: there is no previous champion to go back to")
    if all(versions[PREVIOUS] == versions[CHAMPION] for versions in current.values()):
        raise RegistryError(f"{', '.join(names)}: the previous champion is the champion already")
    changing = {name: each for name, each in current.items() if each[PREVIOUS] != each[CHAMPION]}
    tags = [[name, versions[CHAMPION], {"rolled_back_at": _now()}] for name, versions in changing.items()]
    tags += [[name, versions[PREVIOUS], {"restored_at": _now()}] for name, versions in changing.items()]
    moves = {
        name: {CHAMPION: versions[PREVIOUS], PREVIOUS: versions[CHAMPION]}
        for name, versions in current.items()
    }
    return {"what": "rollback", "aliases": moves, "tags": tags}


def summary(uri: str, names: list[str]) -> list[dict[str, Any]]:
    """List every aliased version of the models: [{"name", "version", "model_id", "aliases"}].

    model_id: of the logged model in MLflow. It names one model in one registry, while version 1 is in every
    registry; null for a version that somebody else made.
    """
    rows = []
    with registry(uri) as client:
        for name in names:
            by_version: dict[str, list[str]] = {}
            for alias, number in aliases(client, name).items():
                by_version.setdefault(str(number), []).append(alias)
            for number in sorted(by_version, key=int, reverse=True):
                model_id = client.get_model_version(name, number).tags.get("model_id")
                row = {"name": name, "version": number, "model_id": model_id}
                rows.append({**row, "aliases": sorted(by_version[number])})
    return rows


def _begin(client: Any, intent: dict[str, Any]) -> None:
    """Note the whole change, then make it: an interrupted change can be completed from its note."""
    first = next(iter(intent["aliases"]))
    client.set_registered_model_tag(first, INTENT, json.dumps(intent))
    _carry_out(client, intent)


def _carry_out(client: Any, intent: dict[str, Any]) -> None:
    """Make a noted change. It sets absolute values, so a second time changes nothing; the note goes last."""
    for alias in (PREVIOUS, CHAMPION):
        for name, moved in intent["aliases"].items():
            if moved[alias] is not None:
                client.set_registered_model_alias(name, alias, moved[alias])
    for name, version, tags in intent["tags"]:
        _tag(client, name, version, tags)
    client.delete_registered_model_tag(next(iter(intent["aliases"])), INTENT)


def _open_intent(client: Any, names: list[str]) -> dict[str, Any] | None:
    for name in names:
        note = registered_tags(client, name).get(INTENT)
        if note is not None:
            return dict(json.loads(note))
    return None


def _tag(client: Any, name: str, version: str, tags: dict[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value[:5000])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
