"""Serve the flows from this machine: `make serve`, or `python -m pipelines.serve`.

The deployments, with their schedules and triggers, are those of prefect.yaml, `definitions.flows`. Unless
Prefect's settings name a server (PREFECT_API_URL), this starts one on http://127.0.0.1:4200.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mae import config
from pipelines import pages
from pipelines.stage_process import QUIET
from pipelines.working_copy import locks

FILE = Path("prefect.yaml")


def main(argv: list[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(prog="pipelines.serve", description="Serve the flows until Ctrl-C.")
    parser.add_argument(
        "--port",
        type=pages.port_number,
        default=pages.PREFECT_PORT,
        help="the port of the Prefect server that this starts",
    )
    arguments = parser.parse_args(argv)
    os.environ.update(QUIET)
    # Flow runs are processes of their own, which must find this package.
    paths = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    for number in (signal.SIGINT, signal.SIGTERM):  # else the server would outlive this process
        signal.signal(number, signal.default_int_handler)
    try:
        with pages.prefect(arguments.port, "--port") as api:
            serve(api)
    except KeyboardInterrupt:
        return 0
    except pages.NotUp as error:
        print(f"pipelines.serve: {error}", file=sys.stderr)
        return 1
    return 0


def serve(api: str) -> None:
    """Register the deployments with the Prefect API at `api` and run its flow runs until interrupted."""
    from prefect import serve as serve_
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}):
        set_killed_runs_crashed()
        # Schedules that a person switched on stay on when this process ends: it will start again.
        serve_(*deployments(), pause_on_shutdown=False)


def set_killed_runs_crashed() -> None:
    """Set runs that a killed flow left Running to Crashed: each deployment may have only one running."""
    try:
        with locks.exclusive(Path.cwd(), grace=config.load().flows.grace):
            pass
    except locks.Busy as busy:
        print(busy)


def deployments(file: Path = FILE) -> list[Any]:
    """Make a deployment for each flow of prefect.yaml; all switches stay as they are in Prefect.

    Prefect's API must be reachable. Raises mae.config.InvalidParams for a file that cannot be read.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import RunnerDeployment
    from prefect.events import DeploymentTriggerTypes
    from pydantic import TypeAdapter

    made = []
    for name, flow in config.read_yaml(file)["definitions"]["flows"].items():
        registered = _registered(name)
        deployment = RunnerDeployment.from_entrypoint(
            flow["entrypoint"],
            name=name,
            description=flow["description"],
            tags=flow["tags"],
            concurrency_limit=ConcurrencyLimitConfig(**flow["concurrency_limit"]),
            triggers=[
                TypeAdapter(DeploymentTriggerTypes).validate_python(_as_switched(one))
                for one in flow["triggers"]
            ],
            schedules=_schedules(registered.schedules if registered else [], flow["schedules"]),
            paused=registered.paused if registered else None,
        )
        made.append(deployment)
    return made


def _registered(name: str) -> Any:
    """Read the deployment from Prefect; None where it is not registered.

    Registering one replaces its schedules and triggers, but what people changed must outlive a restart.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    try:
        with get_client(sync_client=True) as client:
            return client.read_deployment_by_name(f"{name}/{name}")
    except ObjectNotFound:
        return None


def _as_switched(trigger: dict[str, Any]) -> dict[str, Any]:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        registered = client.read_automations_by_name(trigger["name"])
    return {**trigger, "enabled": registered[0].enabled} if registered else trigger


def _schedules(registered: list[Any], wanted: list[dict[str, Any]]) -> list[Any]:
    """Return the schedules of the file, each switched as its registered one, and those that people added."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    active = {schedule.slug: schedule.active for schedule in registered}
    own = [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=one["cron"], timezone=one["timezone"]),
            active=active.get(one["slug"], one["active"]),
            slug=one["slug"],
        )
        for one in wanted
    ]
    added = [
        DeploymentScheduleCreate.model_validate(
            schedule.model_dump(include={"schedule", "active", "parameters", "slug"})
        )
        for schedule in registered
        if schedule.slug not in {one["slug"] for one in wanted}
    ]
    return own + added


if __name__ == "__main__":
    sys.exit(main())
