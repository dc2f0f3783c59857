"""How a flow is brought to its end, by itself or, where it was killed, by the flow that comes next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.retraining import gate_result
from pipelines.retraining.new_data import NewData
from pipelines.working_copy import dvc_files
from pipelines.working_copy.params_override import ParamsOverride, retrain_folder


def recover_interrupted(root: Path, log: Callable[[str], Any]) -> None:
    """What a killed flow left: DVC's files are repaired, a decision counts, settings are put back."""
    if repaired := dvc_files.secure(root):
        log(repaired)
    folder = retrain_folder(root)
    if gate_result.is_unfinished(folder):
        found = gate_result.gate_results(root, folder)
        if any(one.new for one in found):
            log(f"the run before was killed once the gate had decided: {'; '.join(map(str, found))}")
            finish(root, found)
    if said := ParamsOverride(root, folder).restore():
        log(said)


def finish(root: Path, found: list[gate_result.GateResult]) -> None:
    """What was decided upon is no news any more, and params.yaml says how a new champion was made.

    Each step may be taken a second time, after a kill between them.
    """
    folder = retrain_folder(root)
    NewData(root, folder).decide()
    if any(one.promoted for one in found):
        ParamsOverride(root, folder).accept()
    gate_result.close(folder)
