"""Serve the flows from this machine: `make serve`, or `python -m pipelines.serve`.

The deployments, with their schedules and triggers, are those of prefect.yaml, `definitions.flows`. Unless
Prefect's settings name a server (PREFECT_API_URL), one comes with it, on http://127.0.0.1:4200.
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
        "--port", type=int, default=pages.PREFECT_PORT, help="of the Prefect server that comes with it"
    )
    arguments = parser.parse_args(argv)
    os.environ.update(QUIET)
    # Flow runs are processes of their own, which import this package, too.
    paths = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    for number in (signal.SIGINT, signal.SIGTERM):  # else the server would be left behind
        signal.signal(number, signal.default_int_handler)
    try:
        with pages.prefect(arguments.port) as api:
            serve(api)
    except KeyboardInterrupt:
        return 0
    except pages.NotUp as error:
        print(f"pipelines.serve: {error}", file=sys.stderr)
        return 1
    return 0


def serve(api: str) -> None:
    """Register the deployments with the Prefect API at `api` and run what it schedules, until interrupted."""
    from prefect import serve as serve_
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}):
        set_killed_runs_crashed()
        # What somebody switched on stays on when this process ends: it will be started again.
        serve_(*deployments(), pause_on_shutdown=False)


def set_killed_runs_crashed() -> None:
    """Set what a killed flow left Running to Crashed: it would count as the one run that may be at work."""
    try:
        with locks.exclusive(Path.cwd(), grace=config.load().flows.grace):
            pass
    except locks.Busy as busy:
        print(busy)


def deployments(file: Path = FILE) -> list[Any]:
    """A deployment for each flow of prefect.yaml, named after it; all switches as they stand in Prefect now.

    Prefect's API must be reachable. Raises mae.config.InvalidParams for a file that cannot be read.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import RunnerDeployment
    from prefect.events import DeploymentTriggerTypes
    from pydantic import TypeAdapter

    made = []
    for name, said in config.read_yaml(file)["definitions"]["flows"].items():
        there = _registered(name)
        deployment = RunnerDeployment.from_entrypoint(
            said["entrypoint"],
            name=name,
            description=said["description"],
            tags=said["tags"],
            concurrency_limit=ConcurrencyLimitConfig(**said["concurrency_limit"]),
            triggers=[
                TypeAdapter(DeploymentTriggerTypes).validate_python(_as_switched(one))
                for one in said["triggers"]
            ],
            schedules=_schedules(there.schedules if there else [], said["schedules"]),
            paused=there.paused if there else None,
        )
        made.append(deployment)
    return made


def _registered(name: str) -> Any:
    """The deployment as Prefect has it, None where it has none.

    Registering one replaces its schedules and triggers; what people did in the UI must outlive a restart.
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
        there = client.read_automations_by_name(trigger["name"])
    return {**trigger, "enabled": there[0].enabled} if there else trigger


def _schedules(there: list[Any], wanted: list[dict[str, Any]]) -> list[Any]:
    """The file's schedules, each switched as the one that is `there` already, and those added by people."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    active = {schedule.slug: schedule.active for schedule in there}
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
        for schedule in there
        if schedule.slug not in {one["slug"] for one in wanted}
    ]
    return own + added


if __name__ == "__main__":
    sys.exit(main())
