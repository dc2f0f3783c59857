"""The flow `retrain`: new data in, and a new champion only where the gate finds it better. And `rollback`.

By hand: `python -m pipelines.retrain [--start champion|scratch] [--set KEY=VALUE] [--force]`; with --rollback
MODEL the previous champion comes back.
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
from pipelines.retrain_steps import CommandFailed, Retraining, run_mae
from pipelines.retraining import gate_result
from pipelines.working_copy import locks
from pipelines.working_copy.params_override import PARAMS, Settings

NOT_NOTIFIED = ("Unchanged data", "Too few new images")  # of which nobody needs to be told
MODELS = ("encoder", "detector", "segmenter")


def notify_people(flow: Any, flow_run: Any, state: State[Any]) -> None:
    """A Prefect hook: what came of the run, to whom flows.notify names."""
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
    """Train on what arrived since the last decision and let the gate decide; end early where nothing did.

    Args:
        start: Go on from the champion's weights or from scratch; empty: as retrain.start of params.yaml says.
        overrides: Values over params.yaml, as {"pretrain.epochs": 100}; put back unless the result wins.
        force: Train though nothing changed, too little arrived, or what arrived looks suspect; and on all of
            it, where a retraining did not end.
    """
    root = Path.cwd()
    try:
        with locks.exclusive(root, grace=config.load(PARAMS).flows.grace):
            return Retraining(root).run(start, overrides or {}, force)
    except locks.Busy as busy:
        return Cancelled(name="Busy", message=str(busy))
    except CommandFailed as failed:
        return Failed(message=f"{failed} (the champion is the same; run again to go on)")
    except config.InvalidParams as invalid:
        return Failed(message=str(invalid))


@flow(name="rollback", on_completion=[notify_people], on_failure=[notify_people])
def rollback(model: Literal["encoder", "detector", "segmenter"] = "encoder") -> State[Any]:
    """Make the previous champion the champion again; the one that it replaces becomes the previous one.

    Waits for no retraining that is at work: its gate judges against who is champion then.

    Args:
        model: Which; the encoder goes with its classifier.
    """
    try:
        lines = run_mae(Path.cwd(), "rollback", model, retries=0)  # twice would be no way back
    except CommandFailed as failed:
        return Failed(message=str(failed))
    return Completed(name="Rolled back", message="; ".join(lines))


def main(argv: list[str] | None = None) -> int:
    """Run a flow here, with a Prefect server of its own where PREFECT_API_URL names none."""
    parser = argparse.ArgumentParser(
        prog="pipelines.retrain", description="Train on new data, judge, promote."
    )
    parser.add_argument("--start", choices=["champion", "scratch"], help="default: retrain.start")
    parser.add_argument("--set", action=Settings, metavar="KEY=VALUE", help="over params.yaml, for this run")
    parser.add_argument("--force", action="store_true", help="whatever arrived")
    parser.add_argument("--rollback", choices=MODELS, help="the previous champion instead")
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
