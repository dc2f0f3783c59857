"""A digest of the settings, commands and result versions that results depend on, apart from data."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae import results
from mae.config import InvalidParams, read_yaml, recipe
from pipelines.graph import upstreams


class ResultFingerprint:
    """The parameters, commands and result versions that the stages, and those before them, depend on.

    Raises InvalidParams for code that git does not track: DVC's copies for experiments lack it.
    """

    def __init__(self, root: Path, stages: Sequence[str]) -> None:
        all_stages = read_yaml(root / "dvc.yaml")["stages"]
        these = [all_stages[stage] for stage in sorted(upstreams(root, stages))]
        named = [param for stage in these for param in stage.get("params", ())]
        self._params = sorted({param for param in named if isinstance(param, str)})
        files = [param for param in named if isinstance(param, dict)]
        self._versions = sorted({key for file in files for keys in file.values() for key in keys})
        if new := _unknown_to_git(root, "mae"):
            raise InvalidParams(
                f"git does not track these files, so experiments would lack them: git add {' '.join(new)}"
            )
        self._commands = [str(stage.get("cmd")) for stage in these]

    def digest(self, values: dict[str, Any]) -> str:
        """Return the digest for these parameters, section -> key -> value."""
        # A stage may depend on the section that a value names: "${pretrain.method}".
        leaves = dict(recipe.leaves(values))

        def filled(texts: list[str]) -> set[str]:
            return {re.sub(r"\$\{(.+?)\}", lambda m: str(leaves[m[1]]), text) for text in texts}

        settings = {
            section: values.get(section) for section in (name.split(".")[0] for name in filled(self._params))
        }
        versions = dict(recipe.leaves(results.versions()))
        numbers = {key: versions[key] for key in filled(self._versions)}
        text = json.dumps([settings, numbers, self._commands], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def _unknown_to_git(root: Path, below: str) -> list[str]:
    command = ["git", "ls-files", "-z", "--others", "--exclude-standard", "--", below]
    listed = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE)
    return sorted(name for name in listed.stdout.decode().split("\0") if name)
