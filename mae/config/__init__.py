"""The typed, frozen values of `params.yaml`. An unknown, missing or ill-typed key is an error that names it.

A section has the name of the stage or flow that reads it. Only stages, commands, the report, `__main__` and
the flows see these values.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mae.config.dense import (
    Dense,
    Detect,
    IngestDetect,
    IngestSegment,
    Segment,
    ShardAnnotated,
    check_detect,
    check_segment,
)
from mae.config.encoder import Encoder
from mae.config.flows import Flows, Retrain, StageFlow
from mae.config.methods import Methods, Pretrain, check_mask, check_method
from mae.config.sections import (
    KNN,
    Augmented,
    Demo,
    Faults,
    FineTune,
    Ingest,
    Input,
    Linear,
    Partial,
    Probe,
    Registry,
    Report,
    Robustness,
    Runtime,
    Scenes,
    Shard,
)
from mae.config.tokenizer import Tokenizer, check_asked_for
from mae.config.values import Seed
from mae.config.yaml_files import InvalidParams, read_yaml
from mae.suggestions import did_you_mean, not_one_of

__all__ = [
    "Augmented",
    "Dense",
    "Detect",
    "FineTune",
    "Flows",
    "IngestDetect",
    "IngestSegment",
    "InvalidParams",
    "Params",
    "Probe",
    "Retrain",
    "Scenes",
    "Segment",
    "StageFlow",
    "Tokenizer",
    "at_odds",
    "digest",
    "inspect",
    "load",
    "parse",
    "read_yaml",
    "refuse",
]


class Params(Methods):
    seed: Seed
    runtime: Runtime
    demo: Demo
    ingest: Ingest
    shard: Shard
    input: Input
    encoder: Encoder
    tokenizer: Tokenizer
    pretrain: Pretrain
    knn: KNN
    linear: Linear
    attentive: Probe
    partial: Partial
    finetune: FineTune
    scratch: FineTune
    robustness: Robustness
    ingest_detect: IngestDetect
    shard_detect: ShardAnnotated
    detect: Detect
    ingest_segment: IngestSegment
    shard_segment: ShardAnnotated
    segment: Segment
    registry: Registry
    report: Report
    flows: Flows
    retrain: Retrain


@dataclass(frozen=True)
class Check:
    """A check of what sections mean together; it runs where each of them is valid."""

    sections: tuple[str, ...]
    faults: Callable[[Params], Iterable[str]]


def _tunes_blocks_of_the_encoder(params: Params) -> Iterator[str]:
    named, blocks = params.partial.blocks, params.encoder.blocks
    if blocks is not None and max(named) > blocks:
        yield f"partial.blocks {named}: the encoder has {blocks}"


# Before a training of days begins, not after it.
CHECKS = (
    Check(("pretrain",), lambda p: check_method(p.pretrain)),
    Check(("pretrain", "encoder"), lambda p: check_mask(p.pretrain, p.encoder)),
    Check(("tokenizer", "pretrain"), lambda p: check_asked_for(p.tokenizer, p.pretrain)),
    Check(("partial", "encoder"), _tunes_blocks_of_the_encoder),
    Check(
        ("detect", "encoder", "ingest_detect"),
        lambda p: check_detect(p.detect, p.encoder) if p.ingest_detect.source != "none" else (),
    ),
    Check(
        ("segment", "encoder", "ingest_segment"),
        lambda p: check_segment(p.segment, p.encoder) if p.ingest_segment.source != "none" else (),
    ),
)


def parse(values: dict[str, Any], origin: str = "params") -> Params:
    """Check plain values and freeze them; raise InvalidParams with every fault at once."""
    params, faults = inspect(values)
    refuse(faults, origin)
    return params


def inspect(values: dict[str, Any]) -> tuple[Params, list[str]]:
    """Check plain values: return the sections that are valid, and every fault of the others."""
    try:
        params, faults = Params.model_validate(values), []
    except ValidationError as error:
        faults = [fault for one in error.errors() for fault in _explain(one)]
        broken = {one["loc"][0] for one in error.errors() if one["loc"]}
        params = Params.model_construct(
            **{
                name: _validated(field.annotation, values[name])
                for name, field in Params.model_fields.items()
                if name in values and name not in broken
            }
        )
    valid = {name for name in Params.model_fields if hasattr(params, name)}
    for check in CHECKS:
        if valid.issuperset(check.sections):
            faults += check.faults(params)
    return params, faults


def at_odds(params: Params) -> set[str]:
    """Return the valid sections that do not go with others: nothing can be built of them."""
    valid = {name for name in Params.model_fields if hasattr(params, name)}
    return {
        check.sections[0]
        for check in CHECKS
        if valid.issuperset(check.sections) and any(True for _ in check.faults(params))
    }


def refuse(faults: Sequence[str], origin: str) -> None:
    """Raise InvalidParams with all faults, if there are any."""
    if faults:
        raise InvalidParams("\n  ".join([f"{origin}: {len(faults)} to correct", *faults]))


def load(path: str | Path = "params.yaml") -> Params:
    """Load the parameters of a run. Raises InvalidParams."""
    return parse(read_yaml(Path(path)), str(path))


def digest(*values: Any) -> str:
    """Digest values to 16 hex digits; the name of a stage's resume folder is made of them.

    A key at its default adds nothing: a new key leaves the digests of older parameters as they were.
    """
    plain = [
        v.model_dump(mode="json", exclude_defaults=True) if isinstance(v, BaseModel) else v for v in values
    ]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _validated(kind: Any, value: Any) -> Any:
    return kind.model_validate(value) if issubclass(kind, BaseModel) else value


_EXPECTED = {  # where pydantic's words need a reader who knows Python or regular expressions
    "bool_type": "expected true or false",
    "float_type": "expected a number",
    "int_from_float": "expected a whole number",
    "int_type": "expected a whole number",
    "list_type": "expected a list, such as [1, 2]",
    "string_type": "expected text",
    "tuple_type": "expected a list, such as [1, 2]",
}


def _explain(error: Any) -> list[str]:
    """Say what is wrong, beginning with the key; a section can have several faults."""
    where = ".".join(map(str, error["loc"]))
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Faults):
        return [f"{where}.{fault}" if where else fault for fault in cause.faults]
    found = f"{error['input']!r:.200}"
    match error["type"]:
        case "missing":
            what = "missing; it has no default"
        case "extra_forbidden":
            close = did_you_mean(error["loc"][-1], _keys_at(error["loc"][:-1]))
            what = f"unknown key; remove it or correct it{close}"
        case "value_error":
            what = str(cause)
        case "literal_error":
            choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
            what = not_one_of(error["input"], choices)
        case kind:
            what = f"{_EXPECTED.get(kind, error['msg'])}, found {found}"
    return [f"{where}: {what}"]


def _keys_at(path: tuple[str | int, ...]) -> Iterable[str]:
    """Return the keys of the section at that path."""
    section: Any = Params
    for name in path:
        field = getattr(section, "model_fields", {}).get(name)
        section = field.annotation if field else StageFlow  # below flows.stages each key is a stage
    return getattr(section, "model_fields", ())
