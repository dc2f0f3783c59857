"""What arrived since the last decided retraining: the listings as they were then, and whether to trust it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from mae.config import Retrain, read_yaml
from mae.files import copy, move, write_json

IMAGES = "ingest"
LISTING, MANIFEST = "listing.tsv", "manifest.json"
REJECTED = "rejected.json"
# Each names a folder of listings; deciding renames the one to the other.
_DECIDED, _PENDING = "decided.json", "pending.json"
P_BY_CHANCE = 0.01


class NewData:
    """The listings of a working copy, as they are now and as they were when the gate last decided.

    root: of the working copy. folder: work/retrain, which a kill leaves in order: the listings decided upon
    change by one rename, after the decision, so that a run that was killed before is begun again.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder = Path(root), Path(folder)
        self._listings = _output_folders(self._root, "ingest", LISTING)
        self._rejected = _output_folders(self._root, "shard", REJECTED)

    @property
    def stages(self) -> list[str]:
        """The stages that list: of the images, and of the annotated sets."""
        return list(self._listings)

    @property
    def decided(self) -> Path | None:
        """The folder of what was decided upon; None before the first decision."""
        return self._named(_DECIDED)

    @property
    def sharding(self) -> list[str]:
        """The stages that shard what is listed."""
        return list(self._rejected)

    @property
    def listed(self) -> int:
        """How many images are listed, of those pending."""
        manifest = json.loads((self._pending / IMAGES / MANIFEST).read_text())
        return sum(split["count"] for split in manifest.get("splits", {}).values())

    def snapshot(self) -> None:
        """Keep the listings of now, so that what is decided later is decided of these."""
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
        """Whether the listings pending are those of the working copy: nobody has listed anew since."""
        pending = self._named(_PENDING)
        return pending is not None and all(
            _identity(pending / stage) == _identity(listing) for stage, listing in self._listings.items()
        )

    def changed(self) -> list[str]:
        """The stages whose listing is another one than was decided upon; all before the first decision."""
        decided = self.decided
        if decided is None:
            return self.stages
        return [one for one in self.stages if _identity(self._pending / one) != _identity(decided / one)]

    def decide(self) -> None:
        """The listings pending are those decided upon from now on, with what of them was rejected.

        Nothing changes where none were pending since: a run that was killed here had done it.
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
        try:
            found = self._folder / json.loads((self._folder / pointer).read_text())["folder"]
        except (OSError, ValueError, KeyError):
            return None
        return found if found.is_dir() else None

    def rejected(self) -> int:
        """How many images of the listing were left out of the shards that had not been before."""
        if IMAGES not in self._listings:
            return 0
        stage = IMAGES.replace("ingest", "shard")
        before = set() if self.decided is None else _paths(self.decided / stage / REJECTED)
        return len(_paths(self._rejected[stage] / REJECTED) - before)


def doubts(drift: dict[str, Any], settings: Retrain) -> list[str]:
    """What in a drift report (`mae drift`) passes the bounds, and by how much; [] where nothing does.

    A shift counts only where chance does not explain it: few images always differ somehow.
    """
    found, images, classes = [], drift["images"], drift["classes"]
    if images["undecodable"] > settings.max_rejected_share:
        found.append(
            f"{images['undecodable']:.0%} of the new images looked at cannot be decoded "
            f"(retrain.max_rejected_share allows {settings.max_rejected_share:.0%})"
        )
    if classes and classes["shift"] > max(settings.max_class_shift, classes["chance"]):
        most = classes["shares"][0]
        found.append(
            f"the classes' shares shifted by {classes['shift']:.2f} (retrain.max_class_shift allows "
            f"{settings.max_class_shift:g}), most of them that of {most['class']}: from {most['before']:.0%} "
            f"to {most['new']:.0%}"
        )
    if images["shift"] is None:
        if images["looked_at"]["before"] == 0:
            found.append("no image is left as it was: there is nothing to compare the new ones with")
    elif images["shift"] > settings.max_image_shift and images["p"] < P_BY_CHANCE:
        blank = images["blank"]["new"]
        found.append(
            f"the images' {images['most']} shifted by {images['shift']:.2f} (retrain.max_image_shift allows "
            f"{settings.max_image_shift:g})" + (f"; {blank:.0%} of the new images are blank" if blank else "")
        )
    return found


def rejected_too_many(rejected: int, arrived: int, settings: Retrain) -> str | None:
    """What is wrong where too many of the images that arrived were left out of the shards."""
    share = rejected / max(1, arrived)
    if share <= settings.max_rejected_share:
        return None
    return (
        f"{rejected} of {arrived} new images were rejected, {share:.0%} (retrain.max_rejected_share allows "
        f"{settings.max_rejected_share:.0%}); their names and reasons: data/shards/{REJECTED}"
    )


def _output_folders(root: Path, prefix: str, name: str) -> dict[str, Path]:
    """stage -> the folder of its output called `name`, of the stages of dvc.yaml called `prefix`..."""
    found = {}
    for stage, about in read_yaml(root / "dvc.yaml")["stages"].items():
        for out in about.get("outs", []):
            path = Path(out if isinstance(out, str) else next(iter(out)))
            if stage.startswith(prefix) and path.name == name:
                found[stage] = root / path.parent
    return found


def _identity(folder: Path) -> dict[str, Any]:
    """What a manifest says of its images, wherever they lie; {} where there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except OSError:
        return {}
    return {name: manifest.get(name) for name in ("kind", "fingerprint", "categories")}


def _paths(file: Path) -> set[str]:
    try:
        return {one["path"] for one in json.loads(file.read_bytes()).get("rejected", [])}
    except OSError:
        return set()
