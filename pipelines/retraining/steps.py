"""One retraining, step by step: find new data, check them, train, let the gate decide, record that."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State

from mae import config
from mae.__main__ import EXIT_NO_CHAMPION
from pipelines import artifacts
from pipelines.graph import downstreams, upstreams
from pipelines.retraining import gate_result
from pipelines.retraining.new_data import IMAGES, NewData, doubts, rejected_too_many
from pipelines.retraining.recover_interrupted import finish, recover_interrupted
from pipelines.stage_outcome import Outcome
from pipelines.stage_process import run_guarded
from pipelines.stage_tasks import flow_state, run_stages
from pipelines.working_copy.params_override import PARAMS, ParamsOverride, retrain_folder

PICTURES = ("examples", "statistics", "classes")
GATE = "register"
NOT_TRAINED_ON = (
    "Nothing was trained and the champion is the same. Remove the images from the source, or correct them: "
    "until then `reproduce`, or `dvc repro` by hand, would train on those that can be read"
)
Start = Literal["champion", "scratch"]


class CommandFailed(RuntimeError):
    """A command of `mae` failed; the message is its last line."""


class _Ended(Exception):
    """The retraining ends here, in this state."""

    def __init__(self, state: State[Any]) -> None:
        super().__init__(state.message)
        self.state = state


class Retraining:
    """One run, inside a flow, in a working copy that it holds (`pipelines.working_copy.locks.exclusive`)."""

    def __init__(self, root: Path) -> None:
        self._root, self._log = root, get_run_logger().info
        self._folder = retrain_folder(root)
        self._override = ParamsOverride(root, self._folder)
        self._new_data = NewData(root, self._folder)
        self._outcomes: list[Outcome] = []
        recover_interrupted(root, self._log)
        self._params = config.load(root / PARAMS)

    def run(self, start: Start | None, overrides: Mapping[str, Any], force: bool) -> State[Any]:
        """Run all steps; return the final state of the flow. Raises CommandFailed and InvalidParams."""
        try:
            self._apply(overrides)
            settings = None if force or start else self._resume()
            if settings is None:
                settings = self._begin(start or self._params.retrain.start, force)
            # New annotated images are no reason to pretrain: only the stages that depend on them run.
            below = None if settings else downstreams(self._root, self._new_data.changed())
            return self._conclude(self._all_stages(below))
        except _Ended as ended:
            return ended.state
        finally:
            if message := self._override.restore():
                self._log(message)

    def _begin(self, start: Start, force: bool) -> dict[str, Any]:
        """Check the new data and shard them; return the settings to train with, {} to pretrain nothing."""
        self._stages(self._new_data.stages)
        arrived = self._check_data(force)
        settings = {} if arrived is None else {"pretrain.init": self._initial_weights(start)}
        self._apply(settings)
        self._stages(self._new_data.sharding)
        self._check_shards(arrived, force)
        gate_result.begin(self._root, self._folder, settings)
        return settings

    def _resume(self) -> dict[str, Any] | None:
        """Return the settings of a retraining that did not end, to continue it; None to begin a new one.

        Its shards stay as they are: with other images the training would start over, and where new ones come
        every day it might never end.
        """
        settings = gate_result.unfinished_settings(self._folder)
        if settings is None or not self._new_data.is_current:
            return None
        init = settings.get("pretrain.init")
        if init and not (self._root / init).is_file():  # somebody removed it to make room
            return None
        self._log(
            "continuing the retraining that did not end: images that came since then wait for the next one"
        )
        self._outcomes += [Outcome(stage, "Unchanged") for stage in self._new_data.stages]
        self._apply(settings)
        return settings

    def _check_data(self, force: bool) -> int | None:
        """Count the new images; None where only annotated ones are new. Ends without a reason to train."""
        self._new_data.snapshot()
        changed, decided = self._new_data.changed(), self._new_data.decided
        if not changed and not force:
            raise _Ended(
                Completed(name="Unchanged data", message="every listing is the same as at the last decision")
            )
        if decided is None:
            self._log("there was no decision before: all listed images count as new")
            return self._new_data.listed
        if IMAGES not in changed and not force:
            self._log(f"the images are the same; changed: {', '.join(changed)}")
            return None
        drift, suspicions = self._drift(decided)
        counts, least = drift["counts"], self._params.retrain.min_new
        arrived: int = counts["new"] + counts["changed"]
        summary = ", ".join(f"{counts[name]:,} {name}" for name in ("new", "changed", "removed"))
        if arrived < least and changed == [IMAGES] and not force:
            raise _Ended(
                Completed(name="Too few new images", message=f"{summary}; retrain.min_new is {least}")
            )
        self._act_on_doubts(suspicions, force)
        self._log(summary)
        return arrived

    def _drift(self, decided: Path) -> tuple[dict[str, Any], list[str]]:
        """Return the report of `mae drift` and its doubts, and show both as an artifact."""
        out = self._folder / "drift"
        run_mae(self._root, "drift", "--since", str(decided / IMAGES), "--out", str(out))
        drift = json.loads((out / "drift.json").read_text())
        suspicions = doubts(drift, self._params.retrain)
        pictures = [file for name in PICTURES if (file := out / f"{name}.png").is_file()]
        page = gate_result.drift_page(drift, suspicions, [artifacts.picture(file) for file in pictures])
        create_markdown_artifact(page, key="drift", description="New data since the last decision")
        return drift, suspicions

    def _check_shards(self, arrived: int | None, force: bool) -> None:
        wrong = arrived and rejected_too_many(self._new_data.rejected(), arrived, self._params.retrain)
        self._act_on_doubts([wrong] if wrong else [], force)

    def _act_on_doubts(self, suspicions: list[str], force: bool) -> None:
        if not force:
            self._end_if_suspect(suspicions, "; `force` trains nevertheless")
        for one in suspicions:
            self._log(f"forced, though {one}")

    def _end_if_suspect(self, suspicions: list[str], otherwise: str = "") -> None:
        """End here where the data are not fit to train on."""
        if suspicions:
            message = f"{'; '.join(suspicions)}. {NOT_TRAINED_ON}{otherwise}"
            raise _Ended(Failed(name="Suspect data", message=message))

    def _initial_weights(self, start: Start) -> str | None:
        """Return the value for pretrain.init: the champion's file, relative to the root if it is below."""
        if start == "scratch":
            return None
        out = self._folder / "champion"
        lines = run_mae(self._root, "champion", str(out), none=EXIT_NO_CHAMPION)
        weights = next((Path(line) for line in reversed(lines) if line.endswith(".safetensors")), None)
        if weights is None:
            self._log("there is no champion to start from: training starts from scratch")
            return None
        for former in out.iterdir():
            if former.is_dir():  # a download that was killed
                shutil.rmtree(former)
            elif former.name not in (weights.name, Path(self._params.pretrain.init or "").name):
                former.unlink()
        return str(weights.relative_to(self._root) if weights.is_relative_to(self._root) else weights)

    def _apply(self, values: Mapping[str, Any]) -> None:
        for line in self._override.apply(values):
            self._log(f"{PARAMS}: {line}")
        self._params = config.load(self._root / PARAMS)

    def _stages(self, targets: list[str]) -> None:
        """Bring these stages up to date; ends where one of them fails."""
        outcomes = self._run(targets)
        self._end_if_suspect([one.message for one in outcomes if one.state == "Rejected"])
        if not all(outcome.done for outcome in outcomes):
            message = f"{flow_state(outcomes).message} (the champion is the same; run again to continue)"
            raise _Ended(Failed(message=message))

    def _all_stages(self, below: list[str] | None) -> list[Outcome]:
        """Run the stages that are left, or those of them in `below`.

        The gate may have decided although a stage failed, if it does not depend on that stage.
        """
        outcomes = self._run(None, only=below)
        gate = next((outcome for outcome in outcomes if outcome.stage == GATE), None)
        if gate is None or not gate.done:
            # Once it has begun, it may have decided on one model and not on all.
            begun = gate is not None and gate.state != "Skipped"
            champion = "the gate had begun" if begun else "the champion is the same"
            raise _Ended(
                Failed(message=f"{flow_state(outcomes).message} ({champion}; run again to continue)")
            )
        return outcomes

    def _run(self, targets: list[str] | None, only: list[str] | None = None) -> list[Outcome]:
        """Run stages, except those that this retraining has run already."""
        done = [outcome.stage for outcome in self._outcomes if outcome.done]
        if only is not None:
            done += [stage for stage in upstreams(self._root) if stage not in only]
        self._outcomes += (outcomes := run_stages(self._root, self._params.flows, targets=targets, skip=done))
        artifacts.stages_table(self._outcomes)
        return outcomes

    def _conclude(self, outcomes: list[Outcome]) -> State[Any]:
        results = gate_result.gate_results(self._root, self._folder)
        create_markdown_artifact(
            gate_result.decision_page(results), key="decision", description="Champion and challenger"
        )
        artifacts.report_pictures(self._root)
        finish(self._root, results)
        message = "; ".join(map(str, results)) or "no model was registered"
        if not all(outcome.done for outcome in outcomes):
            return Failed(message=f"{flow_state(outcomes).message}. The gate decided: {message}")
        promoted = any(one.promoted for one in results)
        return Completed(name="Promoted" if promoted else "Champion kept", message=message)


def run_mae(root: Path, *arguments: str, none: int | None = None, retries: int | None = None) -> list[str]:
    """Run a command of `mae` as a task run; return the lines that it printed, [] for the exit status `none`.

    Raises CommandFailed after `retries`, by default those of a stage.
    """
    settings = config.load(root / PARAMS).flows
    name = f"mae {arguments[0]}"

    @task(
        name=name,
        task_run_name=name,
        cache_policy=NO_CACHE,
        retries=settings.retries if retries is None else retries,
        retry_delay_seconds=settings.retry_delay,
    )
    def command() -> list[str]:
        lines: list[str] = []
        log = get_run_logger().info

        def handle_line(line: str) -> None:
            lines.append(line)
            log(line)

        program = [sys.executable, "-m", "mae", *arguments]
        status = run_guarded(program, root, grace=settings.grace, log=handle_line)
        if status == none:
            return []
        if status:
            raise CommandFailed(f"{name}: {lines[-1] if lines else f'exited with {status}'}")
        return lines

    return command()
