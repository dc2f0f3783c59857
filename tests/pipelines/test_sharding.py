"""Shards written by tasks side by side: the same shards, whoever runs the tasks, and nothing left running."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from prefect import flow, get_client, task
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.runtime import flow_run
from prefect.states import Running

from mae.config import recipe
from mae.data.listing.manifest import open_source, write_listing
from mae.data.shards.index import Index
from mae.data.shards.write_shards import write_shards
from pipelines import sharding
from pipelines.sharding import PartsFailed, shard_in_parallel
from pipelines.working_copy import locks


@flow
def around(stage, settings, root, log):
    task(name=stage)(shard_in_parallel)(stage, settings, log, root)
    return str(flow_run.id)


@pytest.fixture
def root(tmp_path, project, monkeypatch):
    """A working copy with 30 images listed, to go into 4 shards; the checkout's code is used in it."""
    monkeypatch.setenv("PYTHONPATH", str(project))
    (tmp_path / "params.yaml").write_text((project / "params.yaml").read_text())
    recipe.apply(None, ["shard.max_count=8"], tmp_path / "params.yaml")
    for number in range(30):
        file = tmp_path / f"images/{'val' if number < 8 else 'train'}/class_{number % 2}/{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    listed(tmp_path)
    return tmp_path


def listed(root: Path) -> None:
    write_listing(open_source("folder", root / "images"), root / "data/ingest")


def parts(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "work/shard/partial").glob("*.tar"))


def runs_below(run_id: str) -> dict[str, str]:
    """Name -> state of the flow runs and task runs that this flow run started."""
    with get_client(sync_client=True) as client:
        below = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run_id]))
        deadline = time.monotonic() + 120  # the server learns of task runs a little later
        while True:
            runs = [
                *client.read_flow_runs(flow_run_filter=below),
                *client.read_task_runs(flow_run_filter=below),
            ]
            final = [run for run in runs if run.state and run.state.is_final()]
            if (len(runs) == len(final) > 1) or time.monotonic() > deadline:
                return {run.name: run.state.type.value for run in runs}
            time.sleep(0.2)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    "runner",
    ["threads", "dask", *(pytest.param(one, marks=pytest.mark.slow) for one in ("processes", "ray"))],
)
def test_parts_are_task_runs_that_write_the_shards_of_one_run(root, settings, runner):
    if runner in ("dask", "ray"):
        pytest.importorskip(f"prefect_{runner}")
    said = []
    run_id = around("shard", settings(sharding=runner, parallel=2), root, said.append)
    assert len(parts(root)) == 4
    assert runs_below(run_id) == {"shard parts": "COMPLETED", **dict.fromkeys(parts(root), "COMPLETED")}
    assert f"shard: 4 shards to write, by {runner}" in said
    assert "shard: 4 of 4 shards written" in said  # not always last: a library may log after it
    index = write_shards(root / "data/ingest", root / "out", root / "work/shard/partial", max_count=8,
                         max_bytes=2_000_000_000, log=said.append)  # fmt: skip
    assert "resuming: 4 of 4 shards are finished already" in said
    assert index == write_shards(
        root / "data/ingest", root / "fresh", root / "w", max_count=8, max_bytes=2_000_000_000
    )
    Index.open(root / "out").verify()


@flow
def killed_among_parts():
    @task(persist_result=False)
    def stage():
        with get_client(sync_client=True) as client:
            above = sharding._task_run_above(client)
            made = client.create_flow_run(sharding.write_parts, parent_task_run_id=above, state=Running())
        return str(made.id)

    return str(flow_run.id), stage()


@pytest.mark.usefixtures("prefect_server")
def test_parts_of_a_killed_flow_are_set_to_crashed_with_it():
    run_id, below = killed_among_parts()
    deadline = time.monotonic() + 120  # the server learns of the task run above the parts a little later
    with get_client(sync_client=True) as client:
        while not client.read_flow_run(below).state.is_crashed():
            assert time.monotonic() < deadline
            locks._set_crashed(run_id, "")


@pytest.mark.usefixtures("prefect_server")
def test_a_part_that_fails_is_named_and_the_others_are_kept(root, settings):
    gone = root / "images/train/class_1/19.png"
    gone.unlink()
    with pytest.raises(PartsFailed, match=r"shard: 1 of 4 shards are not written.*19\.png.*run ingest again"):
        around("shard", settings(sharding="threads"), root, print)
    assert len(parts(root)) == 3


@pytest.mark.usefixtures("prefect_server")
def test_what_has_no_parts_to_share_is_left_to_the_stage(root, settings, monkeypatch):
    monkeypatch.setattr(sharding, "get_client", lambda **_: pytest.fail("made a flow run"))
    shard_in_parallel("sharpen", settings(sharding="threads"), print, root)
    (root / "data/segment/ingest").mkdir(parents=True)
    (root / "data/segment/ingest/manifest.json").write_text(json.dumps({"kind": "none"}))
    shard_in_parallel("shard_segment", settings(sharding="threads"), print, root)
    with pytest.raises(PartsFailed, match=r"data/detect/ingest/manifest\.json is not there"):
        shard_in_parallel("shard_detect", settings(sharding="threads"), print, root)


@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_a_runner_that_is_not_installed_is_refused_with_what_to_install(root, settings, runner, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=rf"flows.sharding is {runner}.*prefect-{runner}.*\.\[{runner}\]"):
        shard_in_parallel("shard", settings(sharding=runner), print, root)


_ENGINE = """
import sys
from pathlib import Path
from prefect import flow
from mae.config import Flows
from pipelines.sharding import shard_in_parallel
settings = Flows.model_validate_json(sys.argv[1])
flow(lambda: shard_in_parallel("shard", settings, print), name="killed")()
"""


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("runner", ["threads", "processes", "dask"])
def test_nothing_is_left_when_the_flow_is_killed_in_the_middle(root, settings, runner):
    file = root / "images/train/class_1/9.png"
    image = file.read_bytes()
    file.unlink()
    os.mkfifo(file)  # reading it takes for ever
    with get_client(sync_client=True) as client:
        environment = {**os.environ, "PREFECT_API_URL": str(client.api_url)}
    given = settings(sharding=runner, grace=2.0).model_dump_json()
    engine = subprocess.Popen([sys.executable, "-c", _ENGINE, given], cwd=root, env=environment)

    def running() -> list[psutil.Process]:
        """All that runs in the working copy, but the engine."""
        processes = psutil.process_iter(["cwd", "pid", "cmdline"])
        return [one for one in processes if one.info["cwd"] == str(root) and one.info["pid"] != engine.pid]

    try:
        deadline = time.monotonic() + 300
        while not parts(root) or not any("--part" in one.info["cmdline"] for one in running()):
            assert engine.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert len(running()) > 3
    finally:
        engine.send_signal(signal.SIGKILL)
        engine.wait()
    deadline = time.monotonic() + 180
    while left := running():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    file.unlink()
    file.write_bytes(image)
    write_shards(root / "data/ingest", root / "out", root / "work/shard/partial", max_count=8,
                 max_bytes=2_000_000_000)  # fmt: skip
    Index.open(root / "out").verify()
    assert not list((root / "work/shard/partial").glob("*.partial"))
