"""params.yaml changed for one run, and put back when it ends: after a kill, when the next one starts."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mae import config
from mae.config import recipe
from mae.files import move, sha256_of, write_json, write_text

PARAMS = "params.yaml"
RECORD = "params.before.json"


def retrain_folder(root: Path) -> Path:
    """Where a retraining keeps what it must find again."""
    return Path(root) / config.load(Path(root) / PARAMS).runtime.work_dir / "retrain"


class ParamsOverride:
    """Settings over root/params.yaml. folder: where a record of the file as it was lies meanwhile."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._params, self._folder = Path(root) / PARAMS, Path(folder)
        self._record = self._folder / RECORD
        # Beside what it replaces: the folder may be of another file system.
        self._draft = self._params.with_name(f"{PARAMS}.draft")

    def apply(self, values: Mapping[str, Any]) -> list[str]:
        """Change "section.key" -> value, more of them later, too; returns a line for each key that changed.

        Raises mae.config.InvalidParams, and changes nothing, where a key or value cannot be.
        """
        if not values:
            return []
        self._folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._params, self._draft)
        try:
            changes = list(recipe.lay(None, list(as_settings(values)), onto=self._draft))
        except config.InvalidParams:
            self._draft.unlink()
            raise
        # The record first: whenever this is killed, what the file was is known.
        before = self._read_record()["before"] if self._record.is_file() else self._params.read_text()
        note = {"before": before, "laid": sha256_of(self._draft)}
        write_json(self._record, note)
        move(self._draft, self._params)
        return changes

    def restore(self) -> str | None:
        """Put the file back as it was, and say so; None where there is nothing to put back.

        A file that somebody changed meanwhile is left as it is.
        """
        if not self._record.is_file():
            return None
        note = self._read_record()
        if sha256_of(self._params) == note["laid"]:
            write_text(self._params, note["before"])
            said = f"{PARAMS} is as it was before the run"
        elif self._params.read_text() == note["before"]:
            said = None
        else:
            said = f"{PARAMS} was changed while a run had its settings laid over it: it is left as it is now"
        self.accept()
        return said

    def accept(self) -> None:
        """The file stays as it is."""
        self._record.unlink(missing_ok=True)

    def _read_record(self) -> dict[str, str]:
        return dict(json.loads(self._record.read_text()))


def as_settings(values: Mapping[str, Any]) -> Iterable[str]:
    """{"pretrain.epochs": 5} -> "pretrain.epochs=5", as `mae recipe --set` reads it. JSON is YAML."""
    return (f"{key}={json.dumps(value)}" for key, value in values.items())


class Settings(argparse.Action):
    """--set KEY=VALUE of a command line, any number of times, as one {"section.key": value}."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        """Take one more of them; what is no KEY=VALUE ends the program as any wrong argument does."""
        try:
            more = recipe.parsed(values)
        except config.InvalidParams as invalid:
            parser.error(str(invalid))
        setattr(namespace, self.dest, (getattr(namespace, self.dest) or {}) | more)
