"""Show the pages of MLflow and Prefect, on loopback only: `make ui` or `python -m pipelines.pages`."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mae import config
from pipelines.stage_process import QUIET

HOST, MLFLOW_PORT, PREFECT_PORT = "127.0.0.1", 5000, 4200
LOGS = Path("work")
START_S, STOP_S = 180.0, 20.0
# A server that was killed must still know the holders of its slots: a forgotten one would never be freed.
DURABLE = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}


class NotUp(RuntimeError):
    """A server did not start; the message ends with the last line of its log."""


def main(argv: list[str] | None = None) -> int:
    """Keep both pages up until Ctrl-C or SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="pipelines.pages", description="Show MLflow and Prefect until Ctrl-C."
    )
    parser.add_argument("--mlflow-port", type=int, default=MLFLOW_PORT)
    parser.add_argument("--prefect-port", type=int, default=PREFECT_PORT)
    arguments = parser.parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM):  # a process in the background would ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    try:
        with mlflow(arguments.mlflow_port) as runs, prefect(arguments.prefect_port) as api:
            print(f"MLflow   {runs}\nPrefect  {api.removesuffix('/api')}\nCtrl-C stops both.", flush=True)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        return 0
    except NotUp as error:
        print(f"pipelines.pages: {error}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def mlflow(port: int = MLFLOW_PORT) -> Iterator[str]:
    """Give the address of MLflow's pages: of the tracking server that is set, else of one that we start."""
    store = os.environ.get("MLFLOW_TRACKING_URI") or config.load().runtime.tracking_uri
    if store.startswith("http"):
        yield store
        return
    options = ["--host", HOST, "--port", str(port), "--workers", "1", "--backend-store-uri", store]
    # Its ten processes for jobs of language models have no use here.
    variables = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with _server("mlflow", ["server", *options], f"http://{HOST}:{port}", "/health", variables) as address:
        yield address


@contextlib.contextmanager
def prefect(port: int = PREFECT_PORT) -> Iterator[str]:
    """Give the address of Prefect's API: of the server in Prefect's settings, else of one that we start."""
    from prefect.settings import get_current_settings

    if named := get_current_settings().api.url:
        yield named.rstrip("/")
        return
    address = f"http://{HOST}:{port}"
    variables = {"PREFECT_UI_API_URL": f"{address}/api", **DURABLE}  # else the pages use the default port
    options = ["--host", HOST, "--port", str(port)]
    with _server("prefect", ["server", "start", *options], address, "/api/health", variables):
        yield f"{address}/api"


@contextlib.contextmanager
def _server(
    module: str,
    arguments: Sequence[str],
    address: str,
    health: str,
    variables: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run a server during the block, unless one answers at the address already. Raises NotUp."""
    if _answers(address + health):
        yield address
        return
    LOGS.mkdir(exist_ok=True)
    log = LOGS / f"{module}-server.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, **QUIET, **(variables or {})},
            stdout=out,
            stderr=out,
            start_new_session=True,  # so that Ctrl-C reaches us alone, and we stop the server in order
        )
    try:
        deadline = time.monotonic() + START_S
        while not _answers(address + health):
            if process.poll() is not None or time.monotonic() > deadline:
                last = log.read_text().strip().splitlines()[-1:] or ["nothing"]
                raise NotUp(f"{module} did not start at {address}; the last line of {log}: {last[0]}")
            time.sleep(0.5)
        yield address
    finally:
        _end(process)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop the server, which stops its workers; then kill the rest of its process group."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.terminate()
        process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
