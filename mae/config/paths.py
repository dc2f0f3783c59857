"""Paths of the stages' files (a test compares them with dvc.yaml), and reading earlier results."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class DataSet:
    """Paths of one set of images: listing and shards. section: that of params.yaml for its shards."""

    listing: Path
    shards: Path
    section: str

    @property
    def manifest(self) -> Path:
        return self.listing / "manifest.json"

    @property
    def index(self) -> Path:
        return self.shards / "index.json"


IMAGES = DataSet(Path("data/ingest"), Path("data/shards"), "shard")
DETECTION = DataSet(Path("data/detect/ingest"), Path("data/detect/shards"), "shard_detect")
SEGMENTATION = DataSet(Path("data/segment/ingest"), Path("data/segment/shards"), "shard_segment")
COLOURS = IMAGES.shards / "colours.json"  # measured where input is auto; the index alone decides it
NO_SET = {"kind": "none"}  # manifest and index where params.yaml has source none
VERSIONS = Path("data/versions.json")
MODELS = Path("models")
PRETRAINED, FINETUNED, SCRATCH = MODELS / "pretrain", MODELS / "finetune", MODELS / "scratch"
ENCODER = PRETRAINED / "encoder.safetensors"
METHOD = PRETRAINED / "method.safetensors"
TOKENIZER = MODELS / "tokenizer" / "tokenizer.safetensors"
TOKENS = TOKENIZER.parent / "tokens"
CLASSIFIER = FINETUNED / "classifier.safetensors"
DETECTOR = MODELS / "detect" / "detector.safetensors"
SEGMENTER = MODELS / "segment" / "segmenter.safetensors"
MODELS_OF = {"pretrain": ENCODER, "finetune": CLASSIFIER, "detect": DETECTOR, "segment": SEGMENTER}
REPORTS = Path("reports")
OUTCOME = "outcome.json"  # of a stage, in runtime.work_dir/<stage>/
DECISION = REPORTS / "register" / "decision.json"


class MissingResult(RuntimeError):
    """A file that an earlier stage writes is missing."""


def read_result(path: Path) -> Any:
    """Read a JSON file of an earlier stage; MissingResult names the file and the command that makes it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise MissingResult(f"{path} is not there: run `dvc repro`, which runs the stages in order") from None


def require(path: Path) -> Path:
    """Return `path` if it exists; MissingResult otherwise."""
    if not path.exists():
        raise MissingResult(f"{path} is not there: run `dvc repro`, which runs the stages in order")
    return path
