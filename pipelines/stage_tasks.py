"""Stages of dvc.yaml as Prefect task runs: in DVC's order, in parallel where possible, each once."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import allow_failure, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State

from mae import config
from mae.config import Flows
from mae.config.flows import REPRODUCTION
from mae.stage_table import PARALLEL, SHARDING
from pipelines import artifacts
from pipelines.devices import Closed, DeviceLease, Devices
from pipelines.graph import upstreams
from pipelines.stage_outcome import Outcome
from pipelines.stage_process import end_all, is_changed, run_stage, stage_settings
from pipelines.working_copy.params_override import PARAMS


def run_stages(
    root: Path,
    settings: Flows,
    *,
    targets: Iterable[str] | None = None,
    skip: Iterable[str] = (),
) -> list[Outcome]:
    """Inside a flow: bring stages up to date, one task run each, named after it.

    Args:
        root: the working copy; the caller holds it (pipelines.working_copy.locks.exclusive).
        settings: the section `flows` of params.yaml.
        targets: stages to bring up to date, with all that they depend on; None for all.
        skip: stages that the caller has just run.

    Returns the outcomes in the order in which the stages ended. Never raises for a stage that fails: only the
    stages that depend on it are Skipped. When the flow itself is ended, ends the running stages, writes the
    artifact `stages`, and raises the error again.
    """
    done = set(skip)
    graph = upstreams(Path(root), targets)
    graph = {
        name: tuple(up for up in ups if up not in done) for name, ups in graph.items() if name not in done
    }
    return _Reproduction(Path(root), settings, graph).run()


def flow_state(outcomes: Sequence[Outcome]) -> State[Any]:
    """Return the state of the flow: Failed where a stage failed, with a message that names it."""
    failed = [outcome for outcome in outcomes if not outcome.done and outcome.state != "Skipped"]
    skipped = [outcome.stage for outcome in outcomes if outcome.state == "Skipped"]
    if failed:
        reasons = "; ".join(f"{outcome.stage} {outcome.state}: {outcome.message}" for outcome in failed)
        return Failed(message=reasons + (f". Skipped: {', '.join(skipped)}" if skipped else ""))
    counts = Counter(outcome.state for outcome in outcomes)
    return Completed(message=", ".join(f"{count} {state}" for state, count in counts.items()))


class _Reproduction:
    def __init__(self, root: Path, settings: Flows, graph: Mapping[str, Sequence[str]]) -> None:
        self._root, self._settings, self._graph = root, settings, graph
        self._work_dir = Path(config.load(root / PARAMS).runtime.work_dir)
        self._devices = Devices(settings.devices)
        self._outcomes: dict[str, Outcome] = {}  # of stages that ended
        self._latest: dict[str, Outcome] = {}  # of every attempt
        self._skipped_for: dict[str, set[str]] = {}  # skipped stage -> stages that failed
        self._ending = threading.Event()

    def run(self) -> list[Outcome]:
        futures: dict[str, Any] = {}
        ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        try:
            while len(self._outcomes) < len(self._graph):
                for name in self._ready(futures):
                    futures[name] = self._submit(name, futures)
                    futures[name].add_done_callback(lambda _, name=name: ended.put(name))
                name = ended.get()
                message = futures[name].state.message or ""
                self._outcomes[name] = self._latest.get(name) or Outcome(name, "Failed", message=message)
        except BaseException:  # the flow run is cancelled, terminated, interrupted by Ctrl-C
            self._ending.set()
            self._devices.close()
            end_all()
            # While a training saves, the working copy stays locked and keeps the settings of this run.
            for future in futures.values():
                future.wait()
            with contextlib.suppress(Exception):  # so that the error that ended the flow run is raised
                artifacts.stages_table(list(self._latest.values()))
            raise
        return list(self._outcomes.values())

    def _ready(self, submitted: Mapping[str, Any]) -> list[str]:
        """Return the stages that can begin now. A training that waits for a device would block others."""
        running = set(submitted) - set(self._outcomes)
        devices = len(self._devices) - len(running & PARALLEL)
        ready: list[str] = []
        for name, ups in self._graph.items():
            if name in submitted or not all(up in self._outcomes for up in ups):
                continue
            if name in PARALLEL and not self._failed_upstreams(name):
                devices -= 1
                if devices < 0:
                    continue
            ready.append(name)
        return ready[: self._settings.parallel - len(running)]

    def _submit(self, name: str, futures: Mapping[str, Any]) -> Any:
        own = stage_settings(self._settings, name)

        @task(
            name=name,
            task_run_name=name,
            cache_policy=NO_CACHE,  # DVC's is the only cache
            retries=own.retries,
            retry_delay_seconds=own.retry_delay,
            # Unusable data will not be better the next time.
            retry_condition_fn=lambda task, run, state: state.name != "Rejected",
        )
        def stage() -> State[Any]:
            self._latest[name] = outcome = self._attempt(name)
            return _state(outcome, ending=self._ending.is_set())

        # The arrows of Prefect's graph. They go past a skipped stage to the failed one: Prefect would not
        # start a task below a cancelled one.
        skipped = set(self._skipped_for) & set(self._graph[name])
        above = (set(self._graph[name]) - skipped) | (self._failed_upstreams(name) if skipped else set())
        wait_for: list[Any] = [allow_failure(futures[up]) for up in sorted(above)]
        return stage.submit(return_state=False, wait_for=wait_for)

    def _attempt(self, name: str) -> Outcome:
        failed = self._failed_upstreams(name)
        if failed:
            self._skipped_for[name] = failed
            return Outcome(name, "Skipped", message=f"{', '.join(sorted(failed))} failed")
        logger = get_run_logger()
        try:
            with self._device(name, logger.info) as lease:
                if self._ending.is_set():
                    raise Closed
                fan_out = name in SHARDING and self._settings.sharding != "none"
                if fan_out and is_changed(name, self._root):
                    from pipelines.sharding import shard_in_parallel

                    shard_in_parallel(name, self._settings, logger.info, self._root)
                env = {**lease.environment, REPRODUCTION: str(flow_run.id)}
                outcome = run_stage(
                    name, self._root, self._settings, self._work_dir, env, logger.info, keep=lease.fds
                )
        except Closed:
            return Outcome(name, "Interrupted", message="the flow run ended before it began")
        if self._ending.is_set() and not outcome.done:
            return replace(outcome, state="Interrupted")
        return outcome

    def _failed_upstreams(self, name: str) -> set[str]:
        failed = {up for up in self._graph[name] if not self._outcomes[up].done}
        return {first for up in failed for first in self._skipped_for.get(up, {up})}

    def _device(self, name: str, log: Callable[[str], Any]) -> contextlib.AbstractContextManager[DeviceLease]:
        return self._devices.lease(log) if name in PARALLEL else contextlib.nullcontext(DeviceLease({}))


def _state(outcome: Outcome, *, ending: bool) -> State[Any]:
    """Return the state that Prefect shows. It retries only what is Failed."""
    if outcome.done:
        return Completed(name=outcome.state, message=outcome.message or None)
    if outcome.state == "Skipped" or ending:
        return Cancelled(name=outcome.state, message=outcome.message)
    return Failed(name=outcome.state, message=outcome.message)
