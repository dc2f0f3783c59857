"""Show the pages of MLflow and Prefect, on loopback only: `make ui` or `python -m pipelines.pages`."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from mae import config
from mae.addresses import redact, redact_address
from mae.time_limit import time_limit
from pipelines.stage_process import QUIET

HOST, MLFLOW_PORT, PREFECT_PORT = "127.0.0.1", 5000, 4200
EXPERIMENTS = "#/experiments?workflowType=machine_learning"  # else MLflow opens its pages for language models
LOGS = Path("work")
START_S, STOP_S, ANSWER_S = 180.0, 20.0, 5.0
# A server that was killed must still know the holders of its slots: a forgotten one would never be freed.
DURABLE = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}


class NotUp(RuntimeError):
    """A server did not start; the message names the taken port, or ends with the last line of its log."""


def main(argv: list[str] | None = None) -> int:
    """Keep both pages up until Ctrl-C or SIGTERM; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="pipelines.pages", description="Show MLflow and Prefect until Ctrl-C."
    )
    parser.add_argument("--mlflow-port", type=port_number, default=MLFLOW_PORT)
    parser.add_argument("--prefect-port", type=port_number, default=PREFECT_PORT)
    arguments = parser.parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM):  # a process in the background would ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    try:
        with mlflow(arguments.mlflow_port) as runs, prefect(arguments.prefect_port) as api:
            print(f"MLflow   {redact_address(runs).rstrip('/')}/{EXPERIMENTS}")
            print(f"Prefect  {redact_address(api.removesuffix('/api'))}")
            print("Ctrl-C stops both.", flush=True)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        return 0
    except NotUp as error:
        print(f"pipelines.pages: {error}", file=sys.stderr)
        return 1


def port_number(text: str) -> int:
    """Parse a port that a server can have."""
    number = int(text)
    if not 0 < number < 65536:
        raise argparse.ArgumentTypeError(f"{number}: a port is a number from 1 to 65535")
    return number


@contextlib.contextmanager
def mlflow(port: int = MLFLOW_PORT) -> Iterator[str]:
    """Give the address of MLflow's pages: of the tracking server that is set, else of one that we start."""
    store = os.environ.get("MLFLOW_TRACKING_URI") or config.load().runtime.tracking_uri
    if store.startswith("http"):
        yield store
        return
    _check_port("mlflow", port, "--mlflow-port", "MLFLOW_TRACKING_URI")
    options = ["--host", HOST, "--port", str(port), "--workers", "1"]
    # The store as a variable: everybody can read a command line. Ten processes for jobs of language models
    # have no use here.
    variables = {"MLFLOW_BACKEND_STORE_URI": store, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with _server("mlflow", ["server", *options], f"http://{HOST}:{port}", "/health", variables) as address:
        yield address


@contextlib.contextmanager
def prefect(port: int = PREFECT_PORT, option: str = "--prefect-port") -> Iterator[str]:
    """Give the address of Prefect's API: of the server in Prefect's settings, else of one that we start.

    option: the one that names `port` on the command line.
    """
    from prefect.settings import get_current_settings

    if named := get_current_settings().api.url:
        yield named.rstrip("/")
        return
    _check_port("prefect", port, option, "PREFECT_API_URL")
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
    """Run a server during the block, unless one of this folder answers at the address. Raises NotUp."""
    if _answers(address + health):
        yield address
        return
    LOGS.mkdir(exist_ok=True)
    log = LOGS / f"{module}-server.log"
    log.touch()
    log.chmod(0o600)  # a server may name its database with the password
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
                raise NotUp(f"{module} did not start at {address}; the last line of {log}: {redact(last[0])}")
            time.sleep(0.5)
        yield address
    finally:
        _end(process)


def _check_port(module: str, port: int, option: str, variable: str) -> None:
    """Raise NotUp where the port cannot be had, unless the server of this folder has it already.

    Another folder's server would take our runs and deployments for its own.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            another = f"choose another by {option}"
            if error.errno != errno.EADDRINUSE:
                raise NotUp(f"port {port} cannot be used ({error.strerror}): {another}") from None
            if not _is_ours(module, port):
                raise NotUp(
                    f"port {port} is taken by another program: {another}, or, if that is the {module} server "
                    f"to use, set {variable} to its address"
                ) from None


def _is_ours(module: str, port: int) -> bool:
    """Return whether a server of this kind that was started in this folder listens at the port."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # ended, or of another user
            if process.cwd() == os.getcwd() and module in " ".join(process.cmdline()):
                links = process.net_connections("tcp")
                if any(link.status == psutil.CONN_LISTEN and link.laddr.port == port for link in links):
                    return True
    return False


def _answers(url: str) -> bool:
    try:
        with time_limit(ANSWER_S, url), urllib.request.urlopen(url, timeout=ANSWER_S):
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
