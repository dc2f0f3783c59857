"""Runs reach MLflow when it answers, and nobody waits for it when it does not."""

import contextlib
import json
import math
import os
import resource
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mae import tracking
from mae.files import DiskFull
from mae.tracking import machine
from mae.tracking.parent import outbox
from mae.tracking.run import PATIENCE_S, Run
from mae.tracking.run_files import RunFiles
from mae.tracking.server import IMPATIENT, KEY_TAG, Server


def client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def run_of(uri: str, run: Run) -> Any:
    return client(uri).get_run(run.id)


def curve(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    points = client(uri).get_metric_history(run_id, key)
    return [(point.step, point.value) for point in sorted(points, key=lambda p: p.timestamp)]


@pytest.fixture
def down() -> str:
    """The address of a server that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def dripping() -> Iterator[str]:
    """The address of a server whose answer never ends: a byte comes every 50 ms."""

    class Drip(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while True:
                    self.request.sendall(b" ")
                    time.sleep(0.05)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Drip) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def small_files(limit: int) -> Iterator[None]:
    """Let no file grow beyond `limit` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def start(uri: str, folder: Path, stage: str = "pretrain", **more: Any) -> Run:
    more = {"params": {}, "system_metrics": False, "experiment": "mae"} | more
    return tracking.start(stage, uri=uri, directory=folder / stage, **more)


def vanish(run: Run) -> None:
    """Leave the run as a process that is killed does: its lock goes, and nobody says that it ended."""
    assert run._held is not None
    run._held.release()


def parent_of(uri: str, file: Path) -> Any:
    """The MLflow run that a parent file names."""
    key = json.loads(file.read_text())["key"]
    (found,) = client(uri).search_runs(["1"], f"tags.`{KEY_TAG}` = '{key}'")
    return found


def test_a_run_holds_params_metrics_data_and_pictures(mlflow_uri: str, tmp_path: Path) -> None:
    picture = tmp_path / "panel.png"
    picture.write_bytes(b"\x89PNG")
    params = {"mask_ratio": 0.75, "optim": {"betas": [0.9, 0.95]}, "note": "x" * 7000}
    with start(mlflow_uri, tmp_path, params=params, tags={"data": "abc"}) as run:
        for step in range(1, 1501):
            run.log(step, {"loss": 1 / step, "lr": 0.1})
        run.log(1501, {"loss": math.nan})
        run.dataset("shards", digest="d" * 64, source="data/shards/index.json", context="training")
        run.picture(picture)
    found = run_of(mlflow_uri, run)
    assert found.info.status == "FINISHED"
    assert found.data.params["mask_ratio"] == "0.75"
    assert found.data.params["optim.betas"] == "[0.9, 0.95]"
    assert len(found.data.params["note"]) == 6000
    assert found.data.tags["data"] == "abc"
    assert found.data.tags["pid"] == str(os.getpid())
    losses = curve(mlflow_uri, run.id, "loss")
    assert [step for step, _ in losses] == list(range(1, 1502))
    assert losses[99] == (100, 0.01)
    (data,) = found.inputs.dataset_inputs
    assert data.dataset.digest == "d" * 36
    assert {tag.key: tag.value for tag in data.tags}["digest"] == "d" * 64
    names = {file.path for file in client(mlflow_uri).list_artifacts(run.id)}
    assert {"pictures", "params.json"} <= names
    assert tracking.history(tmp_path / "pretrain" / "metrics.jsonl")["loss"][:2] == [(1, 1.0), (2, 0.5)]


def test_logging_costs_far_less_than_a_call_to_the_server(mlflow_uri: str, tmp_path: Path) -> None:
    with start(mlflow_uri, tmp_path) as run:
        began = time.perf_counter()
        for step in range(400):
            run.log(step, {"loss": 1.0, "lr": 1.0})
        each = (time.perf_counter() - began) / 400
    assert each < 0.002  # a call is 10-20 ms on sqlite


def test_the_machines_load_is_logged_beside_the_metrics(mlflow_uri: str, tmp_path: Path) -> None:
    run = start(mlflow_uri, tmp_path)
    run.system = machine.SystemMetrics(every_s=0.0)
    run.log(3, {"loss": 1.0})
    run.finish()
    metrics = run_of(mlflow_uri, run).data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 0
    assert "system/cpu_utilization_percentage" in metrics


def test_stages_stand_under_one_parent_until_the_next_repro(mlflow_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "parent.json"
    with start(mlflow_uri, tmp_path, "ingest", parent_file=file, new_parent=True) as ingest:
        pass
    with start(mlflow_uri, tmp_path, "shard", parent_file=file) as shard:
        pass
    parent = parent_of(mlflow_uri, file).info.run_id
    assert [run_of(mlflow_uri, run).data.tags["mlflow.parentRunId"] for run in (ingest, shard)] == [
        parent
    ] * 2
    assert client(mlflow_uri).get_run(parent).info.status == "FINISHED"
    with start(mlflow_uri, tmp_path, "ingest", parent_file=file, new_parent=True) as again:
        pass
    assert run_of(mlflow_uri, again).data.tags["mlflow.parentRunId"] not in (None, parent)


def test_stages_of_one_reproduction_share_a_parent_that_the_first_of_them_begins(
    mlflow_uri: str, tmp_path: Path
) -> None:
    file = tmp_path / "parent.json"
    parents = []
    for stage, reproduction in (("ingest_detect", "a"), ("ingest", "a"), ("ingest", "b")):
        run = start(
            mlflow_uri,
            tmp_path,
            stage,
            parent_file=file,
            new_parent=stage == "ingest",
            reproduction=reproduction,
        )
        run.finish()
        parents.append(run_of(mlflow_uri, run).data.tags["mlflow.parentRunId"])
    assert parents[0] == parents[1] != parents[2]


@pytest.mark.slow
def test_two_processes_may_be_the_first_to_use_a_new_store(tmp_path: Path) -> None:
    code = (
        f"from mae.tracking.server import Server; Server('sqlite:///{tmp_path}/new.db').experiment_id('mae')"
    )
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]


def test_a_failed_stage_fails_its_parent(mlflow_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "parent.json"
    with (
        pytest.raises(RuntimeError, match="boom"),
        start(mlflow_uri, tmp_path, "ingest", parent_file=file, new_parent=True) as run,
    ):
        raise RuntimeError("boom")
    assert run_of(mlflow_uri, run).info.status == "FAILED"
    assert parent_of(mlflow_uri, file).info.status == "FAILED"


def test_a_deleted_parent_is_replaced(mlflow_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "parent.json"
    start(mlflow_uri, tmp_path, "ingest", parent_file=file, new_parent=True).finish()
    gone = parent_of(mlflow_uri, file).info.run_id
    client(mlflow_uri).delete_run(gone)
    with start(mlflow_uri, tmp_path, "shard", parent_file=file) as run:
        pass
    assert run_of(mlflow_uri, run).data.tags["mlflow.parentRunId"] not in (None, gone)


def test_a_parent_is_open_while_a_stage_is(mlflow_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "parent.json"
    for stage in ("ingest", "shard"):  # any may be the last: a sweep's experiments end with another one
        run = start(mlflow_uri, tmp_path, stage, parent_file=file, new_parent=stage == "ingest")
        assert parent_of(mlflow_uri, file).info.status == "RUNNING"
        run.finish()
        assert parent_of(mlflow_uri, file).info.status == "FINISHED"
    assert [*outbox(file)] == []


@pytest.mark.slow
def test_the_run_of_a_killed_pod_is_closed_by_the_next_stage_wherever_that_runs(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "parent.json"
    start(mlflow_uri, tmp_path, "ingest", parent_file=file, new_parent=True).finish()
    code = f"""
from pathlib import Path; import os, time; from mae import tracking
run = tracking.start("pretrain", uri={mlflow_uri!r}, experiment="mae", params={{}}, tags={{"host": "pod-7"}},
                     directory=Path({str(tmp_path / "pretrain")!r}), parent_file=Path({str(file)!r}))
run.log(1, {{"loss": 1.0}})
worker = os.fork()  # as a loader's, which lives on for some seconds
print(run.id, worker, flush=True) if worker else None
time.sleep(300)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as pod:
        assert pod.stdout is not None
        run_id, worker = pod.stdout.readline().split()
        start(mlflow_uri, tmp_path, "knn", parent_file=file).finish()
        assert client(mlflow_uri).get_run(run_id).info.status == "RUNNING"
        monkeypatch.setattr("mae.tracking.run.HELD_S", 0.1)
        with pytest.raises(tracking.InUse, match=f"process {pod.pid} of pod-7"):
            start(mlflow_uri, tmp_path, "pretrain", parent_file=file)
        pod.kill()
    start(mlflow_uri, tmp_path, "linear", parent_file=file).finish()
    os.kill(int(worker), signal.SIGKILL)
    assert client(mlflow_uri).get_run(run_id).info.status == "KILLED"
    assert curve(mlflow_uri, run_id, "loss") == [(1, 1.0)]


def test_a_killed_run_and_its_parent_are_closed_by_the_next_repro(mlflow_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "parent.json"
    start(mlflow_uri, tmp_path, "ingest", parent_file=file, new_parent=True).finish()
    first_parent = parent_of(mlflow_uri, file).info.run_id
    dead = start(mlflow_uri, tmp_path, "pretrain", parent_file=file)
    alive = start(mlflow_uri, tmp_path, "knn", parent_file=file)
    vanish(dead)
    start(mlflow_uri, tmp_path, "ingest", parent_file=file, new_parent=True).finish()
    status = {name: run_of(mlflow_uri, run).info.status for name, run in (("dead", dead), ("alive", alive))}
    assert status == {"dead": "KILLED", "alive": "RUNNING"}
    assert client(mlflow_uri).get_run(first_parent).info.status == "KILLED"


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(mlflow_uri: str, tmp_path: Path) -> None:
    first = start(mlflow_uri, tmp_path, params={"a": 1})
    for step in range(1, 11):
        first.log(step, {"loss": 1 / step, "images_per_second": 100.0})
    first.flush(now=True)
    first.log(11, {"loss": 1 / 11, "images_per_second": 100.0})  # not sent: the process is killed here
    with (tmp_path / "pretrain" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    vanish(first)
    second = start(mlflow_uri, tmp_path, params={"a": 2}, run_id=first.id)
    for step in range(9, 13):
        second.log(step, {"loss": 1 / step, "images_per_second": 200.0})
    second.finish()
    assert second.id == first.id
    assert curve(mlflow_uri, second.id, "images_per_second") == [
        (step, 100.0 if step < 12 else 200.0) for step in range(1, 13)
    ]
    assert tracking.history(tmp_path / "pretrain" / "metrics.jsonl")["loss"] == [
        (step, 1 / step) for step in range(1, 13)
    ]
    assert curve(mlflow_uri, second.id, "loss") == [(step, 1 / step) for step in range(1, 13)]
    found = run_of(mlflow_uri, second)
    assert found.info.status == "FINISHED"
    assert (found.data.params["a"], found.data.tags["resumed.a"]) == ("1", "2")


def test_a_run_that_the_store_does_not_have_goes_on_in_a_new_one(
    mlflow_uri: str, tmp_path: Path, caplog: Any
) -> None:
    first = start(mlflow_uri, tmp_path)
    first.log(1, {"loss": 3.0})
    first.finish()
    client(mlflow_uri).delete_run(first.id)
    second = start(mlflow_uri, tmp_path, run_id=first.id)
    second.log(2, {"loss": 2.0})
    second.finish()
    assert second.id != first.id
    assert "going on in a new run" in caplog.text
    assert curve(mlflow_uri, second.id, "loss") == [(1, 3.0), (2, 2.0)]


def test_a_fresh_run_in_the_same_folder_is_a_new_one(mlflow_uri: str, tmp_path: Path) -> None:
    with start(mlflow_uri, tmp_path) as first:
        first.log(1, {"loss": 3.0})
    with start(mlflow_uri, tmp_path) as second:
        second.log(1, {"loss": 4.0})
    assert first.id != second.id
    assert curve(mlflow_uri, second.id, "loss") == [(1, 4.0)]


def test_a_server_that_is_down_costs_seconds_and_no_metric(
    down: str, mlflow_uri: str, tmp_path: Path, caplog: Any
) -> None:
    file, picture = tmp_path / "parent.json", tmp_path / "p.png"
    picture.write_bytes(b"first")
    began = time.monotonic()
    for stage in ("ingest", "pretrain"):
        with start(down, tmp_path, stage, parent_file=file, new_parent=stage == "ingest") as run:
            for step in range(1, 2001):
                run.log(step, {"loss": 1 / step})
            run.picture(picture)
    assert time.monotonic() - began < 8
    assert run.id.startswith("offline-")
    assert "all metrics are in" in caplog.text
    assert "mae sync" in caplog.text
    assert len(tracking.history(tmp_path / "pretrain" / "metrics.jsonl")["loss"]) == 2000
    picture.write_bytes(b"overwritten since")
    assert tracking.deliver_all(file, uri=mlflow_uri) == []
    found = {run.info.run_name: run for run in client(mlflow_uri).search_runs(["1"])}
    assert set(found) == {"repro", "ingest", "pretrain"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    parent = found["repro"].info.run_id
    assert {found[n].data.tags["mlflow.parentRunId"] for n in ("ingest", "pretrain")} == {parent}
    assert len(curve(mlflow_uri, found["pretrain"].info.run_id, "loss")) == 2000
    sent = Path(found["pretrain"].info.artifact_uri.removeprefix("file://")) / "pictures" / "p.png"
    assert sent.read_bytes() == b"first"
    assert tracking.deliver(tmp_path / "pretrain")  # again: nothing left, nothing twice
    assert len(client(mlflow_uri).search_runs(["1"])) == 3


def test_a_server_that_never_answers_costs_seconds(
    silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeout = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    assert PATIENCE_S <= int(IMPATIENT[timeout]) <= 8  # one silence is all that a short run waits for
    monkeypatch.setitem(IMPATIENT, timeout, "1")
    monkeypatch.setattr("mae.tracking.run.PATIENCE_S", 0.5)
    began = time.monotonic()
    with start(silent, tmp_path, parent_file=tmp_path / "parent.json", new_parent=True) as run:
        for step in range(1, 3001):
            run.log(step, {"loss": 1.0})
    assert time.monotonic() - began < 5
    assert len(tracking.history(tmp_path / "pretrain" / "metrics.jsonl")["loss"]) == 3000


def test_a_server_that_sends_a_byte_now_and_then_costs_no_more_than_a_silent_one(
    dripping: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr("mae.tracking.server.CALL_S", 1.0)
    monkeypatch.setattr("mae.tracking.run.PATIENCE_S", 0.5)
    began = time.monotonic()
    with start(dripping, tmp_path, parent_file=tmp_path / "parent.json", new_parent=True) as run:
        run.log(1, {"loss": 1.0})
    assert time.monotonic() - began < 6
    assert "timed out" in caplog.text
    assert len(tracking.history(tmp_path / "pretrain" / "metrics.jsonl")["loss"]) == 1


def test_a_server_that_answers_slowly_gets_the_rest_later(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    run = start(mlflow_uri, tmp_path)
    for step in range(2500):
        run.log(step, {"loss": 1.0})
    with monkeypatch.context() as slow:
        slow.setattr("mae.tracking.run.SEND_S", 0.0)
        assert not run.flush()
    assert "is slow" in caplog.text
    run.finish()
    assert tracking.deliver(tmp_path / "pretrain")
    assert len(curve(mlflow_uri, run.id, "loss")) == 2500


def test_a_server_that_comes_back_gets_what_it_missed(
    mlflow_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_answer(self: Server) -> None:
        raise ConnectionError("refused")

    run = start(mlflow_uri, tmp_path)
    run.log(1, {"loss": 1.0})
    run.flush(now=True)
    picture = tmp_path / "p.png"
    with monkeypatch.context() as away:
        away.setattr(Server, "_connect", no_answer)
        for step in range(2, 1200):
            run.log(step, {"loss": 1.0})
        picture.write_bytes(b"then")
        run.picture(picture)
        assert not run.flush()
    picture.write_bytes(b"now")
    assert not run.flush()  # too early to try again
    monkeypatch.setattr(run, "_next_try", 0.0)
    run.log(1200, {"loss": 1.0})
    assert run.flush()
    run.finish()
    assert [step for step, _ in curve(mlflow_uri, run.id, "loss")] == list(range(1, 1201))
    folder = Path(run_of(mlflow_uri, run).info.artifact_uri.removeprefix("file://"))
    assert (folder / "pictures" / "p.png").read_bytes() == b"then"


def test_the_server_is_left_alone_for_a_while_after_a_failure(
    down: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(down, tmp_path)
    calls: list[int] = []
    monkeypatch.setattr("mae.tracking.sender.Sender.send", lambda *_, **__: calls.append(1))
    for step in range(2000):
        run.log(step, {"loss": 1.0})
    assert calls == []
    run.finish()
    assert calls == [1]


def test_an_undelivered_run_is_sent_by_the_next_stage(mlflow_uri: str, tmp_path: Path) -> None:
    file = tmp_path / "parent.json"
    start(mlflow_uri, tmp_path, "ingest", parent_file=file, new_parent=True).finish()
    killed = start(mlflow_uri, tmp_path, "shard", parent_file=file)
    killed.log(1, {"loss": 1.0})
    vanish(killed)
    start(mlflow_uri, tmp_path, "pretrain", parent_file=file).finish()
    assert curve(mlflow_uri, killed.id, "loss") == [(1, 1.0)]
    assert run_of(mlflow_uri, killed).info.status == "KILLED"
    assert [*outbox(file)] == []


def test_a_fresh_run_makes_room_for_itself_and_loses_nothing_of_a_killed_one(
    down: str, mlflow_uri: str, tmp_path: Path
) -> None:
    file = tmp_path / "parent.json"
    killed = start(down, tmp_path, parent_file=file, new_parent=True)
    killed.log(1, {"loss": 3.0})
    vanish(killed)
    start(down, tmp_path, parent_file=file).finish()  # still away
    assert len([*outbox(file)]) == 2
    with start(mlflow_uri, tmp_path, parent_file=file) as fresh:
        fresh.log(1, {"loss": 4.0})
    assert curve(mlflow_uri, fresh.id, "loss") == [(1, 4.0)]
    assert tracking.deliver_all(file, uri=mlflow_uri) == []
    runs = client(mlflow_uri).search_runs(["1"], "attributes.run_name = 'pretrain'")
    assert sorted(run.info.status for run in runs) == ["FINISHED", "FINISHED", "KILLED"]
    (again,) = [run for run in runs if run.info.status == "KILLED"]
    assert curve(mlflow_uri, again.info.run_id, "loss") == [(1, 3.0)]
    assert not [*tmp_path.glob("pretrain-unsent*")]


def test_a_store_under_another_address_has_every_run_once(mlflow_uri: str, tmp_path: Path) -> None:
    run = start(mlflow_uri, tmp_path)
    run.log(1, {"loss": 3.0})
    assert run.flush()
    run.log(2, {"loss": 2.0})
    vanish(run)
    (tmp_path / "link").symlink_to(tmp_path)
    elsewhere = f"sqlite:///{tmp_path / 'link' / 'mlflow.db'}"
    assert tracking.deliver(tmp_path / "pretrain", uri=elsewhere)
    assert curve(mlflow_uri, run.id, "loss") == [(1, 3.0), (2, 2.0)]
    assert len(client(mlflow_uri).search_runs(["1"])) == 1


def test_a_run_at_work_in_another_process_is_not_touched(mlflow_uri: str, tmp_path: Path) -> None:
    with start(mlflow_uri, tmp_path) as run:
        run.log(1, {"loss": 1.0})
        assert not tracking.deliver(tmp_path / "pretrain")
        assert run_of(mlflow_uri, run).info.status == "RUNNING"
    assert tracking.deliver(tmp_path / "pretrain")


def test_what_the_server_will_never_take_does_not_hold_up_the_rest(
    mlflow_uri: str, tmp_path: Path, caplog: Any
) -> None:
    picture = tmp_path / "gone.png"
    picture.write_bytes(b"x")
    run = start(mlflow_uri, tmp_path)
    run.picture(picture)
    shutil.rmtree(tmp_path / "pretrain" / "artifacts")
    run.log(1, {"loss: 100 %!": 1.0})
    run.finish()
    assert "gone.png: the copy of the file is gone" in caplog.text
    assert run_of(mlflow_uri, run).data.metrics == {"loss_ 100 __": 1.0}
    with pytest.raises(ValueError, match="no such file"):
        run.picture(tmp_path / "never.png")


def test_other_ranks_do_nothing(tmp_path: Path) -> None:
    with start("sqlite:///never.db", tmp_path, enabled=False) as run:
        run.log(1, {"loss": 1.0})
        run.params({"a": 1})
        run.picture(tmp_path / "no.png")
        run.dataset("x", digest="x", source="x", context="x")
    assert (run.id, run.url) == ("", "")
    assert not (tmp_path / "pretrain").exists()


@pytest.mark.parametrize("uri", ["", "mlruns", "file:///tmp/mlruns"])
def test_a_store_that_mlflow_does_not_take_is_refused_by_name(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tracking address"):
        start(uri, tmp_path)


@pytest.mark.parametrize(
    "address",
    [
        "http://user:hush-hush@127.0.0.1:9",
        "http://user:hush-hush/a?b#c@127.0.0.1:9",
        "http://127.0.0.1:9/?token=hush-hush",
        "postgresql://user:hush-hush@127.0.0.1:9/mlflow",
    ],
)
def test_a_password_in_the_address_is_in_no_file_and_no_message(
    address: str, tmp_path: Path, caplog: Any, capfd: Any
) -> None:
    run = start(address, tmp_path, parent_file=tmp_path / "parent.json", new_parent=True)
    run.log(1, {"loss": 1.0})
    run.finish()
    said = capfd.readouterr()
    files = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert b"loss" in files
    assert "going on without it" in caplog.text
    assert "hush" not in caplog.text + run.url + said.out + said.err + str(files)


def test_what_waits_for_an_address_with_a_password_is_sent_to_that_of_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "http://user:hush@127.0.0.1:9"
    start(address, tmp_path).finish()
    asked: list[str] = []
    monkeypatch.setattr("mae.tracking.sender.Sender.send", lambda self, **_: asked.append(self.server.uri))
    tracking.deliver(tmp_path / "pretrain")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    tracking.deliver(tmp_path / "pretrain")
    assert asked == ["http://127.0.0.1:9", address]


@pytest.mark.slow
def test_a_kill_while_the_store_is_made_leaves_none_or_a_whole_one(tmp_path: Path) -> None:
    store = tmp_path / "mlflow.db"
    code = f"from mae.tracking.server import Server; Server('sqlite:///{store}').experiment_id('mae')"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while not any(file.stat().st_size for file in tmp_path.glob("*mlflow.db*")):
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
    assert not store.exists()
    assert Server(f"sqlite:///{store}").experiment_id("mae") == "1"
    assert not [*tmp_path.glob(".*partial")]


@pytest.mark.parametrize("damage", ["a folder", "no database"])
def test_a_database_that_cannot_be_opened_is_left_aside_at_once(
    damage: str, tmp_path: Path, caplog: Any
) -> None:
    store = tmp_path / "mlflow.db"
    store.mkdir() if damage == "a folder" else store.write_text("an SQLite database? no")
    began = time.monotonic()
    with start(f"sqlite:///{store}", tmp_path) as run:
        run.log(1, {"loss": 1.0})
    assert time.monotonic() - began < 8
    assert f"{store} cannot be opened" in caplog.text
    assert tracking.history(tmp_path / "pretrain" / "metrics.jsonl")["loss"] == [(1, 1.0)]


def test_a_full_disk_ends_a_run_with_the_file_and_nothing_is_lost_once_there_is_room(
    mlflow_uri: str, tmp_path: Path
) -> None:
    run = start(mlflow_uri, tmp_path)
    metrics = tmp_path / "pretrain" / "metrics.jsonl"

    def train(run: Run) -> None:
        for step in range(100):
            run.log(step, {"loss": 1 / (step + 1)})

    with pytest.raises(DiskFull, match=rf"{metrics}: no space left .* free some"), run, small_files(1500):
        train(run)
    resumed = start(mlflow_uri, tmp_path, run_id=run.id)
    train(resumed)
    resumed.finish()
    assert [step for step, _ in curve(mlflow_uri, resumed.id, "loss")] == list(range(100))


def test_a_picture_that_the_disk_has_no_room_for_is_named(mlflow_uri: str, tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    picture.write_bytes(b"x" * 9000)
    with (
        pytest.raises(DiskFull, match="pretrain/artifacts/"),
        start(mlflow_uri, tmp_path) as run,
        small_files(5000),
    ):
        run.picture(picture)
    resumed = start(mlflow_uri, tmp_path, run_id=run.id)
    resumed.picture(picture)
    resumed.finish()
    assert {file.path for file in client(mlflow_uri).list_artifacts(run.id)} == {"pictures"}


def test_a_killed_process_leaves_every_line_it_logged(tmp_path: Path) -> None:
    code = """
import os, signal, sys; from pathlib import Path
from mae.tracking.run_files import Identity, RunFiles, RunInfo
files = RunFiles.start(Path(sys.argv[1]), Identity("u", "e", RunInfo("key", "x", 0, {})))
for step in range(100):
    files.log(step, {"loss": 1.0})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], check=False)
    assert done.returncode == -signal.SIGKILL
    reopened = RunFiles.open(tmp_path / "run")
    assert reopened is not None
    assert [line["step"] for _, line in reopened.unsent() if "op" not in line] == list(range(100))


def test_importing_tracking_imports_no_mlflow() -> None:
    code = "import sys, mae.tracking; sys.exit('mlflow' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_runs_beside_the_training(mlflow_uri: str, tmp_path: Path) -> None:
    before = threading.active_count()
    with start(mlflow_uri, tmp_path, system_metrics=True) as run:
        run.log(1, {"loss": 1.0})
        assert threading.active_count() == before
    assert Server(mlflow_uri).find_run(run.id) is not None


def test_git_tags_name_the_commit_and_whether_files_differ(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    assert tracking.git_tags(tmp_path) == {}
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    assert tracking.git_tags(tmp_path)["git.dirty"] == "false"
    assert len(tracking.git_tags(tmp_path)["git.commit"]) == 40
    (tmp_path / "a").write_text("2")
    assert tracking.git_tags(tmp_path)["git.dirty"] == "true"
