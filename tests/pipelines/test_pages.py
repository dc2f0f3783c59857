"""Both pages side by side on loopback, and nothing left of them after the end."""

import contextlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request

import psutil
import pytest
from engine.processes import free_port

from pipelines import pages, serve


def get(address):
    with urllib.request.urlopen(address, timeout=120) as answer:
        return answer.read().decode()


@pytest.fixture
def copy(project, tmp_path, migrated_store):
    """A directory with parameters and an MLflow database."""
    shutil.copy(project / "params.yaml", tmp_path / "params.yaml")
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.mark.slow
def test_both_pages_answer_on_loopback_and_end_together(copy, project):
    runs, flows = free_port(), free_port()
    environment = {**os.environ, "PREFECT_HOME": str(copy), "PYTHONPATH": str(project)}
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "pipelines.pages"]
    command += ["--mlflow-port", str(runs), "--prefect-port", str(flows)]
    process = subprocess.Popen(command, cwd=copy, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        said = [process.stdout.readline() for _ in range(3)]
        assert f"http://127.0.0.1:{runs}" in said[0]
        assert f"http://127.0.0.1:{flows}" in said[1]
        assert "MLflow" in get(f"http://127.0.0.1:{runs}/")
        assert (
            json.loads(get(f"http://127.0.0.1:{flows}/api/admin/settings"))["server"]["analytics_enabled"]
            is False
        )
        servers = psutil.Process(process.pid).children(recursive=True)
        listening = [
            link.laddr.ip
            for one in servers
            for link in one.net_connections("inet")
            if link.status == "LISTEN"
        ]
        assert len(listening) >= 2
        assert set(listening) <= {"127.0.0.1", "::1"}
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 0
        assert not psutil.wait_procs(servers, timeout=120)[1]
    finally:
        process.kill()
        process.communicate()


def test_a_server_that_cannot_start_is_an_error_with_its_last_line(copy, monkeypatch):
    monkeypatch.chdir(copy)
    server = pages._server("mlflow", ["no-such-command"], f"http://127.0.0.1:{free_port()}", "/health")
    with pytest.raises(
        pages.NotUp, match=r"mlflow did not start at .*; the last line of work/mlflow-server.log: .+"
    ):
        server.__enter__()


@pytest.fixture
def taken():
    """A port at which a server that is not ours answers any health check."""

    class Fine(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fine) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("program", "option"),
    [(pages, "--mlflow-port"), (pages, "--prefect-port"), (serve, "--port")],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_a_port_of_another_program_is_named_with_its_option(
    program, option, taken, copy, monkeypatch, capsys
):
    monkeypatch.chdir(copy)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    started = []
    monkeypatch.setattr(pages, "_server", lambda *_: started.append(1) or contextlib.nullcontext("http://x"))
    assert program.main([option, str(taken)]) == 1
    assert f"port {taken} is taken by another program: choose another by {option}" in capsys.readouterr().err
    assert started == ([1] if option == "--prefect-port" else [])  # MLflow, whose port is free


def test_our_own_server_is_known_by_its_folder_and_its_program(tmp_path, monkeypatch):
    script = tmp_path / "mlflow.py"
    script.write_text(
        "import socket, time\ns = socket.create_server(('127.0.0.1', 0))\n"
        "print(s.getsockname()[1], flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "mlflow"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as server:
        port = int(server.stdout.readline())
        monkeypatch.chdir(tmp_path)
        pages._check_port("mlflow", port, "--mlflow-port", "MLFLOW_TRACKING_URI")
        with pytest.raises(pages.NotUp, match="taken"):
            pages._check_port("prefect", port, "--port", "PREFECT_API_URL")
        monkeypatch.chdir("/")
        with pytest.raises(pages.NotUp, match="taken"):
            pages._check_port("mlflow", port, "--mlflow-port", "MLFLOW_TRACKING_URI")
        server.kill()


@pytest.mark.parametrize("port", ["0", "65536", "x"])
def test_what_is_no_port_is_refused(port, capsys):
    with pytest.raises(SystemExit):
        pages.main(["--mlflow-port", port])
    assert port in capsys.readouterr().err


def test_a_server_elsewhere_is_used_instead_of_one_of_our_own(monkeypatch):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    prefect = temporary_settings({PREFECT_API_URL: "http://prefect.example.com:4200/api"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example.com:5000")
    with prefect, pages.prefect() as flows, pages.mlflow() as runs:
        assert flows == "http://prefect.example.com:4200/api"
        assert runs == "http://mlflow.example.com:5000"
