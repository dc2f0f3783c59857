"""Who is champion: promoting, keeping and rolling back models, those that were registered together as one."""

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
INTENT = "gate.intent"  # on a registered model while aliases move: all that is to be done, told beforehand


def champion_files(uri: str, name: str, directory: Path) -> Path | None:
    """The safetensors file of the champion of `name`, if any; a remote one is downloaded into `directory`."""
    with registry(uri) as client:
        champion = version_at(client, name, CHAMPION)
        return None if champion is None else weights_of(client, champion, directory)


def champion_version(uri: str, name: str) -> str | None:
    with registry(uri) as client:
        return aliases(client, name).get(CHAMPION)


class Overtaken(RegistryError):
    """Another model became champion than the one that the candidate was judged against."""


def conclude(
    uri: str, candidate: dict[str, Registered], decision: Decision, against: Mapping[str, str | None]
) -> dict[str, Any]:
    """Write the gate's decision onto the candidate's versions and, if it says so, make them champions.

    against: each model's champion when it was judged, `champion_version` of it. Raises Overtaken, before
    anything is changed, where it is another one by now: two working copies share a registry, or a rollback
    came meanwhile.

    There is a champion at every moment: an alias moves in one step. A promotion that a kill interrupted is
    carried out by `finish`. Returns what happened, for the register stage's report.
    """
    models = list(candidate.values())
    verdict = {"gate.reason": decision.reason, "gate.numbers": json.dumps(decision.as_dict())}
    with registry(uri) as client:
        for model in models:
            now = aliases(client, model.name).get(CHAMPION)
            if now != against[model.name]:
                raise Overtaken(f"{model.name}: version {now} is champion now, not {against[model.name]}")
        if decision.promote:
            moves = {model.name: {CHAMPION: model.version, PREVIOUS: against[model.name]} for model in models}
            verdict |= {"promoted_at": _now(), "gate.decision": "promoted"}
            tags = [[model.name, model.version, verdict] for model in models]
            _begin(client, {"what": "promotion", "aliases": moves, "tags": tags})
        else:
            verdict |= {"gate.decision": "kept the champion"}
            for model in models:
                if not model.judged:  # an encoder that was promoted with another classifier keeps that record
                    _tag(client, model.name, model.version, verdict)
    LOG.info("%s: %s", "promoted" if decision.promote else "not promoted", decision.reason)
    return {**decision.as_dict(), "models": summary(uri, [model.name for model in models])}


def finish(uri: str, names: list[str]) -> str | None:
    """Carry out what a kill, or a server that went away, left half done; what it was, None where nothing.

    names: models that were registered together. Whoever judges or moves champions asks this first.
    """
    with registry(uri) as client:
        intent = _open_intent(client, names)
        if intent is None:
            return None
        LOG.warning("finishing a %s of %s that was interrupted", intent["what"], ", ".join(intent["aliases"]))
        _carry_out(client, intent)
        return str(intent["what"])


def recorded(uri: str, candidate: dict[str, Registered]) -> dict[str, Any]:
    """What `conclude` returned when this candidate was judged, with the aliases as they are now."""
    models = list(candidate.values())
    with registry(uri) as client:
        last = models[-1]
        tags = client.get_model_version(last.name, last.version).tags
    return {**json.loads(tags["gate.numbers"]), "models": summary(uri, [model.name for model in models])}


def rollback(uri: str, names: list[str]) -> list[dict[str, Any]]:
    """Make the previous champions champions again; the ones they replace become `previous`.

    names: models that were registered together, and so go back together. One that was interrupted is only
    finished: going back twice would be no way back. Returns who is champion and previous now, as `summary`.
    Raises RegistryError, before anything is changed, where a model has no previous champion.
    """
    with registry(uri) as client:
        intent = _open_intent(client, names)
        if intent is not None:
            _carry_out(client, intent)
        if intent is None or intent["what"] != "rollback":
            intent = _way_back(client, names)
            _begin(client, intent)
    return [
        {"name": name, "version": version, "aliases": [alias]}
        for name, moved in intent["aliases"].items()
        for alias, version in moved.items()
    ]


def _way_back(client: Any, names: list[str]) -> dict[str, Any]:
    found = {name: aliases(client, name) for name in names}
    for name, there in found.items():
        if PREVIOUS not in there or CHAMPION not in there:
            raise RegistryError(f"{name}: there is no previous champion to go back to")
    if all(there[PREVIOUS] == there[CHAMPION] for there in found.values()):
        raise RegistryError(f"{', '.join(names)}: the previous champion is the champion already")
    changing = {name: there for name, there in found.items() if there[PREVIOUS] != there[CHAMPION]}
    tags = [[name, there[CHAMPION], {"rolled_back_at": _now()}] for name, there in changing.items()]
    tags += [[name, there[PREVIOUS], {"restored_at": _now()}] for name, there in changing.items()]
    moves = {name: {CHAMPION: there[PREVIOUS], PREVIOUS: there[CHAMPION]} for name, there in found.items()}
    return {"what": "rollback", "aliases": moves, "tags": tags}


def summary(uri: str, names: list[str]) -> list[dict[str, Any]]:
    """Every aliased version of the models: [{"name", "version", "model_id", "aliases"}].

    model_id: of the logged model, as MLflow has it. Version 1 is in every registry, this in one; null of a
    version that somebody else made.
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
    """Note what is to be done, then do it: half done, it is known what the rest is."""
    first = next(iter(intent["aliases"]))
    client.set_registered_model_tag(first, INTENT, json.dumps(intent))
    _carry_out(client, intent)


def _carry_out(client: Any, intent: dict[str, Any]) -> None:
    """Absolute values alone, so that doing it a second time changes nothing. The note goes last."""
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
