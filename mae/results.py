"""The version of what each stage computes, and the code that computes it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mae.config.yaml_files import read_yaml
from mae.tracking import git_tags

PACKAGE = Path(__file__).parent
# The setting that says which part of a stage runs, where the parts have versions of their own.
PARTS = {"tokenizer": "tokenizer.kind", "pretrain": "pretrain.method", "segment": "segment.head"}


def versions() -> dict[str, Any]:
    """Read all versions of mae/results.yaml: stage -> number, or stage -> part -> number."""
    return read_yaml(PACKAGE / "results.yaml")


def version_of(stage: str, params: Any) -> int:
    """Return the version of what `stage` computes with these parameters; KeyError for a stage without one."""
    found = versions()[stage]
    if stage not in PARTS:
        return int(found)
    section, key = PARTS[stage].split(".")
    return int(found[getattr(getattr(params, section), key)])


@dataclass(frozen=True)
class Code:
    """The code of a run: the project's commit, whether tracked files differ from it, the package's digest."""

    commit: str
    dirty: bool
    digest: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def code_now() -> Code:
    """Read the code as it is on disk now; the commit is the working directory's, `unknown` without git."""
    tags = git_tags()
    return Code(tags.get("git.commit", "unknown"), tags.get("git.dirty") == "true", code_digest())


def code_digest(package: Path = PACKAGE) -> str:
    """Digest the names and bytes of the package's files by sha256; 16 hex digits."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(package).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
