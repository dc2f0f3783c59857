"""New data since the last decision: the listings of that time, and doubts about the new images."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from mae.config import Retrain, read_yaml
from mae.files import copy, move, read_json, write_json

IMAGES, SHARDS = "ingest", "shard"  # the stages of the images to pretrain on
LISTING, MANIFEST = "listing.tsv", "manifest.json"
REJECTED = "rejected.json"
# Each file names a folder of listings; `decide` renames the second to the first.
_DECIDED, _PENDING = "decided.json", "pending.json"
P_BY_CHANCE = 0.01


class NewData:
    """The listings of a working copy: those of now, and those at the last decision of the gate.

    A kill does no harm: one rename after the decision replaces the decided listings, and a run that was
    killed before it begins again.

    Args:
        root: the working copy.
        folder: work/retrain.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = Path(root), Path(folder)
        self._listings = _output_folders(self._root, LISTING)
        self._rejected = _output_folders(self._root, REJECTED)

    @property
    def stages(self) -> list[str]:
        """The stages that list images, or annotated images."""
        return list(self._listings)

    @property
    def decided(self) -> Path | None:
        """The folder of the listings at the last decision; None before the first one."""
        return self._named(_DECIDED)

    @property
    def sharding(self) -> list[str]:
        """The stages that shard the listed images."""
        return list(self._rejected)

    @property
    def listed(self) -> int:
        """The number of images in the pending listing."""
        manifest = json.loads((self._pending / IMAGES / MANIFEST).read_text())
        return sum(split["count"] for split in manifest.get("splits", {}).values())

    def snapshot(self) -> None:
        """Copy the listings of now: the next decision is about these."""
        pending = self._folder / f"listings-{os.urandom(4).hex()}"
        for stage, listing in self._listings.items():
            for name in (LISTING, MANIFEST):
                copy(listing / name, pending / stage / name)
        write_json(self._folder / _PENDING, {"folder": pending.name})
        for former in self._folder.glob("listings-*/"):
            if former not in (pending, self.decided):
                shutil.rmtree(former, ignore_errors=True)

    @property
    def is_current(self) -> bool:
        """True where the pending listings are those of the working copy: it was not listed again."""
        pending = self._named(_PENDING)
        return pending is not None and all(
            _identity(pending / stage) == _identity(listing) for stage, listing in self._listings.items()
        )

    def changed(self) -> list[str]:
        """Return the stages whose listing differs from the decided one; all before the first decision."""
        decided = self.decided
        if decided is None:
            return self.stages
        return [one for one in self.stages if _identity(self._pending / one) != _identity(decided / one)]

    def decide(self) -> None:
        """Make the pending listings the decided ones, together with their rejected images.

        Does nothing where none is pending: a run that was killed right after this has done it.
        """
        pending = self._named(_PENDING)
        if pending is not None:
            for stage, shards in self._rejected.items():
                copy(shards / REJECTED, pending / stage / REJECTED)
            move(self._folder / _PENDING, self._folder / _DECIDED)

    @property
    def _pending(self) -> Path:
        pending = self._named(_PENDING)
        assert pending is not None, "snapshot() comes first"
        return pending

    def _named(self, pointer: str) -> Path | None:
        noted = read_json(self._folder / pointer)
        if not isinstance(noted, dict) or "folder" not in noted:
            return None
        folder = self._folder / noted["folder"]
        return folder if folder.is_dir() else None

    def rejected(self) -> int:
        """Count the images that the shards leave out now and did not leave out before."""
        if IMAGES not in self._listings:
            return 0
        before = set() if self.decided is None else _paths(self.decided / SHARDS / REJECTED)
        return len(_paths(self._rejected[SHARDS] / REJECTED) - before)


def doubts(drift: dict[str, Any], settings: Retrain) -> list[str]:
    """Return the values of a drift report (`mae drift`) that exceed the bounds of `retrain`, in words.

    A shift counts only where chance does not explain it: few images always differ a little.
    """
    reasons, images, classes = [], drift["images"], drift["classes"]
    if images["undecodable"] > settings.max_rejected_share:
        reasons.append(
            f"{images['undecodable']:.0%} of the new images looked at cannot be decoded "
            f"(retrain.max_rejected_share allows {settings.max_rejected_share:.0%})"
        )
    if classes and classes["shift"] > max(settings.max_class_shift, classes["chance"]):
        most = classes["shares"][0]
        reasons.append(
            f"the classes' shares shifted by {classes['shift']:.2f} (retrain.max_class_shift allows "
            f"{settings.max_class_shift:g}), most of them that of {most['class']}: from {most['before']:.0%} "
            f"to {most['new']:.0%}"
        )
    if images["shift"] is None:
        if images["looked_at"]["before"] == 0:
            reasons.append("no image is unchanged: there is nothing to compare the new ones with")
    elif images["shift"] > settings.max_image_shift and images["p"] < P_BY_CHANCE:
        blank = images["blank"]["new"]
        reasons.append(
            f"the images' {images['most']} shifted by {images['shift']:.2f} (retrain.max_image_shift allows "
            f"{settings.max_image_shift:g})" + (f"; {blank:.0%} of the new images are blank" if blank else "")
        )
    return reasons


def rejected_too_many(rejected: int, arrived: int, settings: Retrain) -> str | None:
    """Return a message where the shards leave out too many of the new images; None where they do not."""
    share = rejected / max(1, arrived)
    if share <= settings.max_rejected_share:
        return None
    return (
        f"{rejected} of {arrived} new images were rejected, {share:.0%} (retrain.max_rejected_share allows "
        f"{settings.max_rejected_share:.0%}); their names and reasons: data/shards/{REJECTED}"
    )


def _output_folders(root: Path, name: str) -> dict[str, Path]:
    """Map each stage of dvc.yaml that has an output called `name` to the folder of that output."""
    folders = {}
    for stage, about in read_yaml(root / "dvc.yaml")["stages"].items():
        for out in about.get("outs", []):
            path = Path(out if isinstance(out, str) else next(iter(out)))
            if path.name == name:
                folders[stage] = root / path.parent
    return folders


def _identity(folder: Path) -> dict[str, Any]:
    """Return the entries of a manifest that identify its images, wherever they are; {} without one."""
    manifest = read_json(folder / MANIFEST)
    return {name: manifest.get(name) for name in ("kind", "fingerprint", "categories")} if manifest else {}


def _paths(file: Path) -> set[str]:
    return {one["path"] for one in (read_json(file) or {}).get("rejected", [])}
