"""A fixture for tests that ask a model over HTTP: a plugin that conftest.py names."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[str, str], str]]:
    """Starts `mlflow models serve` on a model of the registry at a uri; the address once it answers."""
    started: list[subprocess.Popen[bytes]] = []
    log = (tmp_path / "serve.log").open("w")

    def serve(uri: str, model: str) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "-p", str(port)]
        command += ["--env-manager", "local", "--host", "127.0.0.1"]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1"}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # mlflow looks for uvicorn there
        started.append(
            subprocess.Popen(
                command, env=environment | {"PATH": path}, start_new_session=True, stdout=log, stderr=log
            )
        )
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
        while time.monotonic() < deadline and started[-1].poll() is None:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{address}/ping", timeout=30).close()
                return address
            time.sleep(0.5)
        raise AssertionError(f"{' '.join(command)} did not come up:\n{(tmp_path / 'serve.log').read_text()}")

    yield serve
    for process in started:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=120)
    log.close()


def post(address: str, images: list[bytes]) -> list[dict[str, Any]]:
    """The predictions of a served model for the images; raises HTTPError as urllib does."""
    rows = [{"image": base64.b64encode(image).decode()} for image in images]
    request = urllib.request.Request(
        f"{address}/invocations",
        json.dumps({"dataframe_records": rows}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["predictions"]
