"""The typed, frozen values of `params.yaml`. An unknown, missing or ill-typed key is an error that names it.

A section has the name of the stage or flow that reads it. Only stages, commands, the report, `__main__` and
the flows see these values.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator

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
from mae.config.values import Count
from mae.config.yaml_files import InvalidParams, read_yaml

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
    "digest",
    "load",
    "parse",
    "read_yaml",
]


class Params(Methods):
    seed: Count
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

    @model_validator(mode="after")
    def _can_be_pretrained(self) -> "Params":
        """Check before a tokenizer is trained for days, not after."""
        check_method(self, self.pretrain)
        check_mask(self.pretrain, self.encoder)
        check_asked_for(self.tokenizer, self.pretrain)
        return self

    @model_validator(mode="after")
    def _tunes_blocks_of_the_encoder(self) -> "Params":
        named, blocks = self.partial.blocks, self.encoder.blocks
        if blocks is not None and max(named) > blocks:
            raise ValueError(f"partial.blocks {named}: the encoder has {blocks}")
        return self

    @model_validator(mode="after")
    def _dense_models_fit_the_encoder(self) -> "Params":
        """Check before pretraining, not days later when the dense task loads the encoder."""
        if self.ingest_detect.source != "none":
            check_detect(self.detect, self.encoder)
        if self.ingest_segment.source != "none":
            check_segment(self.segment, self.encoder)
        return self


def parse(values: dict[str, Any], origin: str = "params") -> Params:
    """Check plain values and freeze them; raise InvalidParams with every fault at once."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        faults = [f"  {_explain(one)}" for one in error.errors()]
        raise InvalidParams(f"{origin}: {len(faults)} to correct\n" + "\n".join(faults)) from None


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


def _explain(error: Any) -> str:
    where = ".".join(map(str, error["loc"]))  # empty where sections do not go together
    known = {
        "missing": "missing; it has no default",
        "extra_forbidden": "unknown key; remove it or correct it",
        "value_error": str(error.get("ctx", {}).get("error", "")),
    }
    what = known.get(error["type"], f"{error['msg']}, found {error['input']!r}")
    return f"{where}: {what}" if where else what
