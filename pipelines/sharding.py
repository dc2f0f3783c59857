"""Write shards in parallel: parts are mapped Prefect tasks, on the task runner that `flows.sharding` names.

They run in a process of their own under guard, so that all that the runner starts (pools, a local cluster)
ends with the flow. On a cluster, all machines must see the working copy under the same path.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_client, get_run_logger, task, unmapped
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.flow_engine import run_flow
from prefect.futures import as_completed
from prefect.runtime import task_run
from prefect.states import Completed, Crashed, Failed, Pending, State
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from mae.config import Flows
from mae.stage_table import SHARDING
from pipelines.stage_process import run_guarded, stage_settings

GROUPS = 64  # at most: a group starts in a second, reports its progress, and is retried by itself
KNOWN_AFTER_S = 30.0  # at most; without the task run, the flow run of the parts has no parent
CHILD = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",  # Prefect has the lines of the tasks already
    "RAY_USAGE_STATS_ENABLED": "0",
}


class PartsFailed(RuntimeError):
    """Some shards could not be written; the others stay for the next attempt."""


def shard_in_parallel(
    stage: str, settings: Flows, log: Callable[[str], Any], root: Path | None = None
) -> None:
    """Write the shards that `stage` would write now; the stage then only publishes them. Logs the progress.

    Does nothing for a stage that does not shard, or has a single shard to write. Raises PartsFailed, and
    ValueError where the runner is not installed.

    Args:
        root: the working copy, by default the current directory.
    """
    root = Path.cwd() if root is None else Path(root)
    _require(settings.sharding)
    if stage not in SHARDING:
        return
    parts = _list_parts(stage, root, settings, log)
    if len(parts) < 2:
        return
    log(f"{stage}: {len(parts)} shards to write, by {settings.sharding}")
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(
            write_parts,
            name=f"{stage} parts",
            parameters={
                "stage": stage,
                "parts": parts,
                "root": str(root.absolute()),
                "settings": settings.model_dump(mode="json"),
            },
            parent_task_run_id=_task_run_above(client),
            state=Pending(),
        )
        # A flow for which PREFECT_API_URL names no server has started one: the parts must use the same.
        environment = {**CHILD, "PREFECT_API_URL": str(client.api_url)}
    command = [sys.executable, "-m", "pipelines.sharding", str(run.id)]
    limit = stage_settings(settings, stage).timeout
    status = run_guarded(command, root, grace=settings.grace, limit=limit, env=environment, log=log)
    if status:
        raise PartsFailed(f"{stage}: {_failure_message(run.id, status)}")


@flow(name="write shards", persist_result=False)
def write_parts(stage: str, parts: list[str], root: str, settings: Flows) -> State[Any]:
    """Write parts of a stage's shards in parallel, in groups.

    Args:
        stage: The stage that shards.
        parts: Names of the shards, as `mae STAGE --list-parts` prints them.
        root: The working copy, on all machines of the cluster.
        settings: The section `flows` of params.yaml.
    """
    groups = [parts[start::GROUPS] for start in range(min(GROUPS, len(parts)))]
    own = stage_settings(settings, stage)
    writing = write_group.with_options(retries=own.retries, retry_delay_seconds=own.retry_delay)
    futures = writing.map(
        label=[_label(group) for group in groups],
        names=groups,
        stage=unmapped(stage),
        root=unmapped(root),
        grace=unmapped(settings.grace),
    )
    progress = create_progress_artifact(0.0, key=f"{stage.replace('_', '-')}-parts")
    assert isinstance(progress, UUID)  # inside an async function it would be a coroutine
    sizes = dict(zip([future.task_run_id for future in futures], map(len, groups), strict=True))
    written, reasons = 0, []
    for future in as_completed(futures):
        future.wait()  # only then has it its state, which the server may learn later
        if future.state.is_completed():
            written += sizes[future.task_run_id]
        else:
            reasons.append(future.state.message or "no reason given")
        update_progress_artifact(progress, 100.0 * written / len(parts))
        print(f"{stage}: {written} of {len(parts)} shards written", flush=True)
    if reasons:
        return Failed(message=f"{len(parts) - written} of {len(parts)} shards are not written: {reasons[0]}")
    return Completed(message=f"{written} shards")


@task(task_run_name="{label}", cache_policy=NO_CACHE, persist_result=False)
def write_group(label: str, names: list[str], stage: str, root: str, grace: float) -> None:
    """Write these shards one after another, in a process that ends with this one."""
    last: list[str] = []
    logger = get_run_logger()

    def handle_line(line: str) -> None:
        last[:] = [line]
        logger.info(line)

    command = [sys.executable, "-m", "mae", stage, "--part", *names]
    status = run_guarded(command, Path(root), grace=grace, log=handle_line)
    if status:
        raise PartsFailed(" ".join([*last, f"(exited with {status})"]))


def _task_run_above(client: SyncPrefectClient) -> UUID | None:
    """Return the task run around this call, once the server knows it, which may take a moment."""
    deadline = time.monotonic() + KNOWN_AFTER_S
    while task_run.id is not None and time.monotonic() < deadline:
        with contextlib.suppress(ObjectNotFound):
            return client.read_task_run(UUID(str(task_run.id))).id
        time.sleep(0.2)
    return None


def _label(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _list_parts(stage: str, root: Path, settings: Flows, log: Callable[[str], Any]) -> list[str]:
    lines: list[str] = []
    command = [sys.executable, "-m", "mae", stage, "--list-parts"]
    status = run_guarded(command, root, grace=settings.grace, log=lines.append)
    for line in lines:
        if not line.startswith('"'):
            log(line)
    if status:
        raise PartsFailed(f"{stage}: {' '.join(lines[-1:])} (exited with {status})")
    return [json.loads(line) for line in lines if line.startswith('"')]


def _require(sharding: str) -> None:
    needed = {"dask": "prefect_dask", "ray": "prefect_ray"}.get(sharding)
    if needed is not None and importlib.util.find_spec(needed) is None:
        raise ValueError(
            f"flows.sharding is {sharding}, which needs the package {needed.replace('_', '-')}: "
            f"pip install '.[{sharding}]', or set flows.sharding to threads"
        )


def _runner(settings: Flows) -> TaskRunner[Any]:
    """Make the task runner: `flows.parallel` parts at once, or as many as the given cluster has room for."""
    workers = settings.parallel
    if settings.sharding == "processes":
        return ProcessPoolTaskRunner(max_workers=workers)
    if settings.sharding == "dask":
        import dask.config
        from prefect_dask import DaskTaskRunner

        address = dask.config.get("scheduler-address", None)  # DASK_SCHEDULER_ADDRESS, or Dask's own files
        here = {"n_workers": workers, "threads_per_worker": 1, "host": "127.0.0.1"}
        return DaskTaskRunner(
            address=address, cluster_kwargs=None if address else {**here, "dashboard_address": None}
        )
    if settings.sharding == "ray":
        from prefect_ray import RayTaskRunner

        # Ray itself reads RAY_ADDRESS.
        here = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers}
        return RayTaskRunner(init_kwargs=here)
    return ThreadPoolTaskRunner(max_workers=workers)


def _failure_message(flow_run_id: Any, status: int) -> str:
    """Return why the flow run of the parts failed; set one that did not end to Crashed."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(flow_run_id).state
        if state is None or not state.is_final():
            state = Crashed(message=f"Its process ended with {status}.")
            client.set_flow_run_state(flow_run_id, state, force=True)
        return state.message or f"exited with {status}"


def main(argv: list[str] | None = None) -> int:
    """Run the flow run that `shard_in_parallel` made; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="pipelines.sharding", description="Write the parts of shards, for pipelines.reproduce."
    )
    parser.add_argument("flow_run", help="the id of a flow run of `write shards`")
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(parser.parse_args(argv).flow_run)
    settings = Flows.model_validate(run.parameters["settings"])
    prepared = write_parts.with_options(task_runner=_runner(settings))
    state = run_flow(prepared, flow_run=run, return_type="state")
    assert isinstance(state, State)
    return 0 if state.is_completed() else 1


if __name__ == "__main__":
    # Under its own name, so that other processes can import the functions that they are sent.
    from pipelines.sharding import main as run_main

    sys.exit(run_main())
