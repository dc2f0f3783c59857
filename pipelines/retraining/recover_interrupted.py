"""Finish a retraining: at its own end or, where it was killed, at the start of the next flow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.retraining import gate_result
from pipelines.retraining.new_data import NewData
from pipelines.working_copy import dvc_files
from pipelines.working_copy.params_override import ParamsOverride, retrain_folder


def recover_interrupted(root: Path, log: Callable[[str], Any]) -> None:
    """Repair what a killed flow left: DVC's files, a decision that was not recorded, settings of one run."""
    if repaired := dvc_files.secure(root):
        log(repaired)
    folder = retrain_folder(root)
    if gate_result.is_unfinished(folder):
        results = gate_result.gate_results(root, folder)
        if any(one.new for one in results):
            log(f"the run before was killed after the gate had decided: {'; '.join(map(str, results))}")
            finish(root, results)
    if message := ParamsOverride(root, folder).restore():
        log(message)


def finish(root: Path, results: list[gate_result.GateResult]) -> None:
    """Record a decision: its data are not new any more, and params.yaml keeps the settings of a new champion.

    After a kill between the steps, all of them may run a second time.
    """
    folder = retrain_folder(root)
    NewData(root, folder).decide()
    if any(one.promoted for one in results):
        ParamsOverride(root, folder).accept()
    gate_result.close(folder)
