"""Settings of one run in params.yaml, undone when the run ends or, after a kill, when the next one starts."""

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
_DIGEST = "laid"  # the key of the digest in the record, unchanged since earlier releases


def retrain_folder(root: Path) -> Path:
    """Return the folder in which a retraining keeps its state."""
    return Path(root) / config.load(Path(root) / PARAMS).runtime.work_dir / "retrain"


class ParamsOverride:
    """Settings of one run, written into root/params.yaml.

    Args:
        folder: keeps a record of the file as it was.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._params, self._folder = Path(root) / PARAMS, Path(folder)
        self._record = self._folder / RECORD
        # Next to the file that it replaces: the folder may be on another file system.
        self._draft = self._params.with_name(f"{PARAMS}.draft")

    def apply(self, values: Mapping[str, Any]) -> list[str]:
        """Write settings, "section.key" -> value; return a line for each key that changed. Can be repeated.

        Raises mae.config.InvalidParams, and changes nothing, for a key or value that is not valid.
        """
        if not values:
            return []
        self._folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._params, self._draft)
        try:
            changes = recipe.apply(None, list(as_settings(values)), self._draft)
        except config.InvalidParams:
            self._draft.unlink()
            raise
        # The record first: it is there whenever a kill comes.
        before = self._read_record()["before"] if self._record.is_file() else self._params.read_text()
        note = {"before": before, _DIGEST: sha256_of(self._draft)}
        write_json(self._record, note)
        move(self._draft, self._params)
        return changes

    def restore(self) -> str | None:
        """Restore the file and return a message; None where there is nothing to restore.

        Leaves a file that somebody changed meanwhile.
        """
        if not self._record.is_file():
            return None
        note = self._read_record()
        if sha256_of(self._params) == note[_DIGEST]:
            write_text(self._params, note["before"])
            message = f"{PARAMS} is restored"
        elif self._params.read_text() == note["before"]:
            message = None
        else:
            message = f"{PARAMS} was changed during the run: it stays as it is now"
        self.accept()
        return message

    def accept(self) -> None:
        """Keep the file as it is now."""
        self._record.unlink(missing_ok=True)

    def _read_record(self) -> dict[str, str]:
        return dict(json.loads(self._record.read_text()))


def as_settings(values: Mapping[str, Any]) -> Iterable[str]:
    """Turn {"pretrain.epochs": 5} into "pretrain.epochs=5", which `mae recipe --set` reads. JSON is YAML."""
    return (f"{key}={json.dumps(value)}" for key, value in values.items())


class Settings(argparse.Action):
    """The option --set KEY=VALUE, any number of times, collected in one {"section.key": value}."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        """Add one setting; text that is not KEY=VALUE ends the program as any wrong argument does."""
        try:
            more = recipe.parsed(values)
        except config.InvalidParams as invalid:
            parser.error(str(invalid))
        setattr(namespace, self.dest, (getattr(namespace, self.dest) or {}) | more)
