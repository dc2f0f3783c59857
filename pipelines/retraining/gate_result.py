"""The result of the gate of `register` for one retraining, read from its decision and shown to people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mae.config.paths import DECISION
from mae.files import read_json, write_json

_BEGUN = "begun.json"
_SETTINGS = "laid"  # the key of the settings in that file, unchanged since earlier releases


@dataclass(frozen=True)
class GateResult:
    """The gate's result for one kind of model.

    Attributes:
        new: this retraining made the model, or made one again that the gate knew before.
        about: the entry of the kind in decision.json.
    """

    kind: str
    new: bool
    about: dict[str, Any]

    @property
    def promoted(self) -> bool:
        return self.new and bool(self.about["promote"]) and not self._replaced

    @property
    def _replaced(self) -> bool:
        """True where the model was promoted before, but another one is champion now."""
        newest = [model["aliases"] for model in self.about["models"] if "challenger" in model["aliases"]]
        return bool(self.about["promote"]) and not all("champion" in aliases for aliases in newest)

    def __str__(self) -> str:
        if not self.new:
            return f"{self.kind}: the same model as before"
        if self._replaced:
            return f"{self.kind}: the champion stays: this model was champion before, and was replaced"
        return f"{self.kind}: {'promoted' if self.promoted else 'the champion stays'}: {self.about['reason']}"


def begin(root: Path, folder: Path, settings: Mapping[str, Any]) -> None:
    """Note that training begins with these settings, and the challengers of this moment.

    A run that continues after a kill keeps the challengers that were noted first.
    """
    before = (
        _read_begun(folder)["challengers"] if is_unfinished(folder) else _challengers(_read_decision(root))
    )
    write_json(folder / _BEGUN, {"challengers": before, _SETTINGS: dict(settings)})


def is_unfinished(folder: Path) -> bool:
    """Return whether a retraining began to train and has not ended."""
    return (folder / _BEGUN).is_file()


def unfinished_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings of the retraining that has not ended; None where there is none."""
    return dict(_read_begun(folder)[_SETTINGS]) if is_unfinished(folder) else None


def gate_results(root: Path, folder: Path) -> list[GateResult]:
    """Return the decisions since `begin`."""
    decision = _read_decision(root)
    before, now = _read_begun(folder)["challengers"], _challengers(decision)
    return [GateResult(kind, now[kind] != before.get(kind), about) for kind, about in decision.items()]


def close(folder: Path) -> None:
    """Forget the retraining: its decision is recorded."""
    (folder / _BEGUN).unlink(missing_ok=True)


def decision_page(results: list[GateResult]) -> str:
    """Return Markdown: figures of champion and challenger, the gain with its interval, the aliases."""
    lines = [
        "| model | figure | champion | challenger | gain (interval) | samples | decision | aliases |",
        "|---|---|---:|---:|---|---:|---|---|",
    ]
    for one in results:
        about = one.about
        gain = "" if about["gain"] is None else f"{about['gain']:+.4f} ({_interval(about)})"
        decision = "promoted" if one.promoted else "champion kept" if one.new else "same model as before"
        who = "; ".join(f"{m['name']} {m['version']}: {', '.join(m['aliases'])}" for m in about["models"])
        figures = [_figure(about[side]) for side in ("champion", "challenger")]
        cells = [one.kind, about["figure"], *figures, gain, str(about["samples"]), decision, who]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"* {one}" for one in results)])


def drift_page(drift: dict[str, Any], doubts: list[str], pictures: list[str]) -> str:
    """Return Markdown: the new data, doubts about them, and a comparison with the earlier data."""
    counts, images = drift["counts"], drift["images"]
    names = ("before", "now", "new", "changed", "removed", "unchanged")
    lines = [f"**{doubt}**\n" for doubt in doubts]
    lines += ["| " + " | ".join(names) + " |", "|" + "---:|" * len(names)]
    lines += ["| " + " | ".join(f"{counts[name]:,}" for name in names) + " |", ""]
    if drift["classes"]:
        shift, chance = drift["classes"]["shift"], drift["classes"]["chance"]
        lines.append(f"Classes' shares shifted by {shift:.3f}; by chance up to {chance:.3f}.\n")
    lines.append(
        f"Of {images['looked_at']['new']} new images looked at {images['undecodable']:.1%} cannot be "
        f"decoded, {images['blank']['new']:.1%} are blank ({images['blank']['before']:.1%} before).\n"
    )
    if images["statistics"]:
        lines += ["| statistic | distance | median before | median new |", "|---|---:|---:|---:|"]
        for name, one in images["statistics"].items():
            lines.append(f"| {name} | {one['distance']:.3f} | {one['before']:.4g} | {one['new']:.4g} |")
    for what, paths in drift["examples"].items():
        if paths:
            lines += ["", f"{what.capitalize()}, for example: {', '.join(f'`{path}`' for path in paths)}"]
    return "\n".join([*lines, "", *pictures])


def notify(block: str | None, subject: str, body: str, log: Callable[[str], Any]) -> None:
    """Notify people by the Prefect block of that name, and write the log in any case.

    Never raises: a chat that cannot be reached must not undo a decision.
    """
    log(f"{subject}: {body}")
    if block is None:
        return
    from prefect.blocks import notifications
    from prefect.blocks.core import Block

    assert notifications  # its import registers the blocks that `load` finds

    try:
        loaded: Any = Block.load(block)
        loaded.notify(body, subject)
    except Exception as error:
        # Without the text of the error: that may hold a webhook's address, which is a secret.
        log(f"flows.notify: the block {block} could not send ({type(error).__name__})")


def _read_decision(root: Path) -> dict[str, Any]:
    return read_json(root / DECISION) or {}


def _read_begun(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / _BEGUN).read_text()))


def _challengers(decision: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Map each kind to its challengers, the models that were registered last.

    Their ids distinguish them: the decision in a fresh clone is about versions of another registry.
    """
    return {
        kind: sorted(
            [m["name"], m["version"], m.get("model_id")]
            for m in about["models"]
            if "challenger" in m["aliases"]
        )
        for kind, about in decision.items()
    }


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _interval(about: dict[str, Any]) -> str:
    if about["low"] is None or about["high"] is None:
        return "none"
    return f"{about['low']:+.4f} to {about['high']:+.4f}"
