"""What the results of stages depend on besides their data, as one digest: settings, commands and code."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mae import recipe
from mae.config import InvalidParams, read_yaml
from pipelines.graph import upstreams


class Watched:
    """What dvc.yaml says that the stages, and those before them, depend on.

    Raises InvalidParams for code among it that git does not know: a copy of the working copy, as DVC makes
    them, would not have it.
    """

    def __init__(self, root: Path, stages: Sequence[str]) -> None:
        all_stages = read_yaml(root / "dvc.yaml")["stages"]
        these = [all_stages[stage] for stage in sorted(upstreams(root, stages))]
        self._params = sorted({str(param) for stage in these for param in stage.get("params", ())})
        deps = sorted({dep for stage in these for dep in stage.get("deps", ())})
        if new := _listed(root, deps, "--others", "--exclude-standard"):
            raise InvalidParams(f"not known to git, so not in an experiment's copy: git add {' '.join(new)}")
        files = _listed(root, deps)
        contents = [hashlib.sha256((root / file).read_bytes()).hexdigest() for file in files]
        self._code = [str(stage.get("cmd")) for stage in these] + files + contents

    def digest(self, values: dict[str, Any]) -> str:
        # A stage may depend on the section that a value names: "${pretrain.method}".
        leaves = dict(recipe.leaves(values))
        named = {re.sub(r"\$\{(.+?)\}", lambda m: str(leaves[m[1]]), param) for param in self._params}
        told = {section: values.get(section) for section in (name.split(".")[0] for name in named)}
        text = json.dumps([told, self._code], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def _listed(root: Path, below: Sequence[str], *which: str) -> list[str]:
    command = ["git", "ls-files", "-z", *which, "--", *below]
    listed = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE)
    return sorted(name for name in listed.stdout.decode().split("\0") if name) if below else []
