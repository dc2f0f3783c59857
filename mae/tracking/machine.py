"""The process and machine of a run: host, user, commit, load."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

SOURCE_TAG = "mlflow.source.name"  # the column Source of MLflow's pages


def process_tags(repository: Path | None = None) -> dict[str, str]:
    """Return tags that name the machine, the process and the commit."""
    tags = {"host": socket.gethostname(), "pid": str(os.getpid())}
    with contextlib.suppress(KeyError, OSError):  # a user id without a name, as in containers
        import getpass

        tags["mlflow.user"] = getpass.getuser()
    tags["mlflow.source.type"] = "LOCAL"
    return tags | git_tags(repository)


def git_tags(repository: Path | None = None) -> dict[str, str]:
    """Return the commit checked out at `repository` (default: here), and if tracked files differ from it."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        dirty = bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": commit, "git.commit": commit, "git.dirty": str(dirty).lower()}


class SystemMetrics:
    """MLflow's own system monitors, read on the caller's clock.

    MLflow's SystemMetricsMonitor runs them in a thread that asks the server before every sample and ends for
    good when it does not answer; read here, the samples go the same way as every other metric, into the file.
    """

    def __init__(self, every_s: float = 10.0) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self._every_s = every_s
        self._monitors: list[Any] = []
        for monitor in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
            with contextlib.suppress(Exception):  # no GPU, no pynvml, no /proc/net in a sandbox
                self._monitors.append(monitor())
        self._read()  # the first CPU figure of psutil is always 0
        self._next = time.monotonic() + every_s

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def sample(self) -> dict[str, float]:
        """Return `system/<name>` -> value, the mean since the last sample where the monitor has one."""
        self._next = time.monotonic() + self._every_s
        return self._read()

    def _read(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for monitor in self._monitors:
            with contextlib.suppress(Exception):
                monitor.collect_metrics()
                values |= {
                    f"system/{key}": float(value) for key, value in monitor.aggregate_metrics().items()
                }
                monitor.clear_metrics()
        return values
