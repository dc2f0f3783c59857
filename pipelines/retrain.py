"""The flow `retrain`: train on new data, and promote only models that the gate finds better. And `rollback`.

By hand: `python -m pipelines.retrain [--start champion|scratch] [--set KEY=VALUE] [--force]`; `--rollback
MODEL` makes the previous champion the champion again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from prefect.states import Cancelled, Completed, Failed, State

from mae import config
from pipelines.reproduce import interactive_settings
from pipelines.retraining import gate_result
from pipelines.retraining.steps import CommandFailed, Retraining, run_mae
from pipelines.working_copy import locks
from pipelines.working_copy.params_override import PARAMS, Settings

NOT_NOTIFIED = ("Unchanged data", "Too few new images")  # states that need no notification
MODELS = ("encoder", "detector", "segmenter")


def notify_people(flow: Any, flow_run: Any, state: State[Any]) -> None:
    """Send the state of a flow run by the block that flows.notify names (a hook of Prefect)."""
    from prefect.logging.loggers import flow_run_logger

    if state.name not in NOT_NOTIFIED:
        block = config.load(PARAMS).flows.notify
        subject = f"{flow.name} {flow_run.name}: {state.name}"
        gate_result.notify(block, subject, state.message or "", flow_run_logger(flow_run, flow).info)


@flow(name="retrain", on_completion=[notify_people], on_failure=[notify_people], on_crashed=[notify_people])
def retrain(
    start: Literal["champion", "scratch"] | None = None,
    overrides: dict[str, Any] | None = None,
    force: bool = False,
) -> State[Any]:
    """Train on the images that are new since the last decision, and let the gate decide.

    Args:
        start: Start from the champion's weights or from scratch; empty takes retrain.start of params.yaml.
        overrides: Values for params.yaml, e.g. {"pretrain.epochs": 100}; undone unless the result wins.
        force: Train although nothing changed, too few images are new, or they look suspect; and start over
            where an earlier retraining did not end.
    """
    root = Path.cwd()
    try:
        with locks.exclusive(root, grace=config.load(PARAMS).flows.grace):
            return Retraining(root).run(start, overrides or {}, force)
    except locks.Busy as busy:
        return Cancelled(name="Busy", message=str(busy))
    except CommandFailed as failed:
        return Failed(message=f"{failed} (the champion is the same; run again to continue)")
    except config.InvalidParams as invalid:
        return Failed(message=str(invalid))


@flow(name="rollback", on_completion=[notify_people], on_failure=[notify_people])
def rollback(model: Literal["encoder", "detector", "segmenter"] = "encoder") -> State[Any]:
    """Make the previous champion the champion again, and the present one the previous one.

    Does not wait for a retraining that runs: its gate compares with the champion at that time.

    Args:
        model: The kind of model; the encoder goes with its classifier.
    """
    try:
        lines = run_mae(Path.cwd(), "rollback", model, retries=0)  # a second time would undo the first
    except CommandFailed as failed:
        return Failed(message=str(failed))
    return Completed(name="Rolled back", message="; ".join(lines))


def main(argv: list[str] | None = None) -> int:
    """Run a flow here, with a Prefect server of its own unless PREFECT_API_URL names one."""
    parser = argparse.ArgumentParser(
        prog="pipelines.retrain", description="Train on new data, evaluate, promote."
    )
    parser.add_argument(
        "--start",
        choices=["champion", "scratch"],
        help="the weights to start from (default: retrain.start of params.yaml)",
    )
    parser.add_argument("--set", action=Settings, metavar="KEY=VALUE", help="use this value for this run")
    parser.add_argument("--force", action="store_true", help="train whatever the new data are like")
    parser.add_argument(
        "--rollback", choices=MODELS, help="make the previous champion the champion again instead"
    )
    arguments = parser.parse_args(argv)
    with interactive_settings():
        if arguments.rollback:
            state = rollback(arguments.rollback, return_state=True)
        else:
            state = retrain(arguments.start, arguments.set, arguments.force, return_state=True)
    print(f"{state.name}: {state.message}")
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    sys.exit(main())
