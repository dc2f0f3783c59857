"""The flow `reproduce`: bring every stage of dvc.yaml up to date.

By hand: `python -m pipelines.reproduce [STAGE ...] [--set KEY=VALUE]`. After an interruption, the same
command continues.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.states import Cancelled, State

from mae import config
from mae.config import recipe
from pipelines import artifacts
from pipelines.retraining.recover_interrupted import recover_interrupted
from pipelines.stage_tasks import flow_state, run_stages
from pipelines.working_copy import locks
from pipelines.working_copy.params_override import PARAMS, Settings, as_settings

SERVER_START_S = 120


@flow(name="reproduce")
def reproduce(targets: list[str] | None = None, overrides: dict[str, Any] | None = None) -> State[Any]:
    """Bring the stages of dvc.yaml up to date, in DVC's order; stages that are up to date do not run.

    Args:
        targets: Stages to bring up to date, with all that they depend on; all stages where empty.
        overrides: Values written into params.yaml first, which stay there, e.g. {"pretrain.epochs": 100}.
    """
    root = Path.cwd()
    try:
        with locks.exclusive(root, grace=config.load(PARAMS).flows.grace):
            recover_interrupted(root, get_run_logger().info)
            apply_overrides(overrides)
            outcomes = run_stages(root, config.load(PARAMS).flows, targets=targets or None)
            artifacts.stages_table(outcomes)
            artifacts.report_pictures(root)
    except locks.Busy as busy:
        return Cancelled(name="Busy", message=str(busy))
    return flow_state(outcomes)


def apply_overrides(overrides: dict[str, Any] | None) -> None:
    """Write values into params.yaml and keep its comments; raises InvalidParams, which names the key."""
    if overrides:
        for line in recipe.apply(None, list(as_settings(overrides)), Path(PARAMS)):
            get_run_logger().info("params.yaml: %s", line)


def main(argv: list[str] | None = None) -> int:
    """Run the flow here, with a Prefect server of its own unless PREFECT_API_URL names one."""
    parser = argparse.ArgumentParser(prog="pipelines.reproduce", description="Run the stages of dvc.yaml.")
    parser.add_argument(
        "targets", nargs="*", metavar="STAGE", help="with all stages that it depends on (default: all stages)"
    )
    parser.add_argument(
        "--set",
        action=Settings,
        metavar="KEY=VALUE",
        help="write this value into params.yaml, where it stays",
    )
    arguments = parser.parse_args(argv)
    with interactive_settings():
        state = reproduce(arguments.targets or None, arguments.set, return_state=True)
    print(f"{state.name}: {state.message}")
    return 0 if state.is_completed() else 1


@contextmanager
def interactive_settings() -> Iterator[None]:
    """Prepare Prefect for a flow that a person runs: its own server may start slowly, and reports nothing.

    Ctrl-C reaches all processes of the terminal. The server, which starts here, does not see it: the flow
    needs it to end in order, and then ends it.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import (
        PREFECT_SERVER_ANALYTICS_ENABLED,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
        temporary_settings,
    )

    settings = {
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: SERVER_START_S,
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
    }
    with temporary_settings(settings):
        former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with get_client(sync_client=True):
                pass
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
        yield


if __name__ == "__main__":
    sys.exit(main())
