"""Where the stages' files lie (a test compares with dvc.yaml), and how they are read and written."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae.files import whole


@dataclass(frozen=True)
class DataSet:
    """Where the listing and the shards of one set of images lie; `section`: of params.yaml, on its shards."""

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
NO_SET = {"kind": "none"}  # manifest and index of a set that params.yaml says there is not
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
REPORTS = Path("reports")
DECISION = REPORTS / "register" / "decision.json"


class MissingResult(RuntimeError):
    """A file that an earlier stage writes is not there."""


def read_json(path: Path) -> Any:
    """What an earlier stage wrote; MissingResult says which file, and how to make it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise MissingResult(f"{path} is not there: run `dvc repro`, which runs the stages in order") from None


def require(path: Path) -> Path:
    """`path`, if it is there; MissingResult otherwise."""
    if not path.exists():
        raise MissingResult(f"{path} is not there: run `dvc repro`, which runs the stages in order")
    return path


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as file:
        file.write(text.encode())


def digest_of(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
