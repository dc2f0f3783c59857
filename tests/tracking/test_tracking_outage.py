"""A real MLflow server that goes away, or whose answers do, has every value once in the end."""

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mae import tracking
from mae.tracking.run import Run

pytestmark = pytest.mark.slow


class MlflowServer:
    """`mlflow server` over a store in a folder, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "mlflow.db"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.store}"]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # mlflow looks for uvicorn there
        environment = {**os.environ, "PATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.store.parent / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.store.parent,
                env=environment,
                start_new_session=True,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{self.address}/health", timeout=30).close()
                return
            time.sleep(0.2)
        raise AssertionError(f"no MLflow server:\n{(self.store.parent / 'server.log').read_text()}")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(120)

    def asked(self, query: str, *values: str) -> list[tuple[int, ...]]:
        """Rows of the store itself."""
        with contextlib.closing(sqlite3.connect(self.store)) as store:
            return store.execute(query, values).fetchall()

    def steps(self, run: Run) -> list[int]:
        """Of every stored loss of a run."""
        query = "select step from metrics where key = 'loss' and run_uuid = ? order by step"
        return [step for (step,) in self.asked(query, run.id)]

    def runs(self) -> int:
        return self.asked("select count(*) from runs")[0][0]


class LosesAnswers(BaseHTTPRequestHandler):
    """Passes requests on to `target`; the answer to the next of a path in `lost` goes to nobody."""

    target: str
    lost: list[str]

    def _pass_on(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
        request = urllib.request.Request(
            self.target + self.path, self.rfile.read(length) or None, headers, method=self.command
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, body = error.code, error.read()
        for path in self.lost:
            if path in self.path:
                self.lost.remove(path)
                self.close_connection = True
                return
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = _pass_on

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server(migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(migrated_store.read_bytes())
    server = MlflowServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def between(server: MlflowServer) -> Iterator[tuple[str, list[str]]]:
    """The address of a proxy before the server, and the list of paths whose next answer is lost."""
    lost: list[str] = []
    handler = type("Handler", (LosesAnswers,), {"target": server.address, "lost": lost})
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{proxy.server_address[1]}", lost
    proxy.shutdown()
    proxy.server_close()
    thread.join()


def start(uri: str, folder: Path, **more: str) -> Run:
    return tracking.start(
        "pretrain", uri=uri, experiment="mae", directory=folder, params={}, system_metrics=False, **more
    )


def log(run: Run, steps: range) -> None:
    for step in steps:
        run.log(step, {"loss": 1 / step, "lr": 0.1})


def try_now(run: Run) -> bool:
    run._next_try, run._wasted_s = 0.0, 0.0
    return run.flush()


def vanish(run: Run) -> None:
    """Leave the run as a process that is killed does."""
    assert run._held is not None
    run._held.release()


def test_a_server_that_is_killed_and_comes_back_has_every_value_once(
    server: MlflowServer, tmp_path: Path
) -> None:
    run = start(server.address, tmp_path / "run")
    log(run, range(1, 800))
    server.kill()
    log(run, range(800, 2100))
    assert not try_now(run)
    server.start()
    log(run, range(2100, 2500))
    assert try_now(run)
    run.finish()
    assert server.steps(run) == [*range(1, 2500)]


def test_what_was_stored_is_stored_once_though_the_answer_was_lost_and_the_process_was_killed(
    server: MlflowServer, between: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, lost = between
    before = server.runs()
    lost += ["runs/create", "runs/log-batch"]
    run = start(address, tmp_path / "run")
    assert (run.id.startswith("offline-"), server.runs()) == (True, before + 1)
    log(run, range(1, 101))
    assert not try_now(run)  # the answer to the values' first batch is the next that is lost
    assert (server.steps(run), server.runs()) == ([*range(1, 101)], before + 1)
    # Killed; at the next start, from the checkpoint of step 40, the server cannot be reached; killed again.
    lost.append("runs/get")
    vanish(run)
    second = start(address, tmp_path / "run", run_id=run.id)
    log(second, range(41, 61))
    assert not lost
    vanish(second)
    third = start(address, tmp_path / "run", run_id=run.id)
    log(third, range(51, 121))
    third.finish()
    assert server.runs() == before + 1
    assert server.steps(third) == [*range(1, 121)]
