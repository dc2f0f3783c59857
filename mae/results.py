"""The version of what each stage computes, and the code that computes it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mae.config.yaml_files import read_yaml
from mae.stage_table import STAGES, setting
from mae.tracking import git_tags

PACKAGE = Path(__file__).parent


def versions() -> dict[str, Any]:
    """Read all versions: stage -> number, or stage -> part -> number; a stage that the file lacks has 1."""
    new = {name: 1 for name, stage in STAGES.items() if stage.part is None and name != "versions"}
    return new | read_yaml(PACKAGE / "results.yaml")


def version_of(stage: str, params: Any) -> int:
    """Return the version of what `stage` computes under these parameters; KeyError where it has none."""
    found, part = versions()[stage], STAGES[stage].part
    return int(found if part is None else found[setting(params, part)])


@dataclass(frozen=True)
class Code:
    """The code of a run: the project's commit, whether tracked files differ from it, the package's digest.

    dirty: None where nobody knows, as without git.
    """

    commit: str
    dirty: bool | None
    digest: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def code_now() -> Code:
    """Read the code as it is on disk now; the commit is the working directory's, `unknown` without git."""
    tags = git_tags()
    dirty = tags["git.dirty"] == "true" if tags else None
    return Code(tags.get("git.commit", "unknown"), dirty, code_digest())


def spelled(dirty: bool | None) -> str:
    """Spell `Code.dirty` as a tag: `true`, `false` or `unknown`."""
    return "unknown" if dirty is None else str(dirty).lower()


def code_digest(package: Path = PACKAGE) -> str:
    """Digest the names and bytes of the package's files by sha256; 16 hex digits."""
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(package).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]
