"""Fixtures of many tests: the real data sets next to the checkout, where there are any."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

# One thread for each test process: tests run side by side, and threads that spin on taken cores cost tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

# A shell that starts the tests in the background makes them ignore Ctrl-C, and processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The same inputs in each run, and no limit of time for one: a busy machine fails no test.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("house")

pytest_plugins = ("mlflow_store", "mlflow_server", "dense_models", "campaign_table")

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Small real data sets in the official layouts; their terms forbid committing them."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real data sets beside the checkout (../shared/data)")
    return SHARED_DATA


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function that has one of the workers fill the folder of that name; the others take a copy each."""
    ours = tmp_path_factory.getbasetemp()
    all_workers = ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours

    def made(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = all_workers / f"once-{name}", all_workers / f"once-{name}.done"
        with FileLock(all_workers / f"once-{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return shutil.copytree(folder, tmp_path_factory.mktemp(name) / "copy")

    return made


@pytest.fixture
def popen() -> Iterator[Callable[..., subprocess.Popen]]:
    """subprocess.Popen, whose processes are killed at the end of the test."""
    started: list[subprocess.Popen] = []

    def start(command: list[str], **options: Any) -> subprocess.Popen:
        started.append(subprocess.Popen(command, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
            pipe.close()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", action="store_true", help="run the long campaigns of random kills, too")
    parser.addoption("--kills", type=int, default=10, help="kills of each stage in a campaign (%(default)s)")
    parser.addoption("--write-table", action="store_true", help="write the results into docs/reliability.md")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the campaigns out unless asked for; begin with the files that start processes.

    Files run whole on one worker (`--dist loadscope`), so a slow file must not be the last to begin: first
    those with slow tests, then flows, DVC and stages.
    """
    if not config.getoption("--campaign"):
        left_out = [item for item in items if item.get_closest_marker("campaign")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("campaign")]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    folders = {ROOT / "tests", ROOT / "tests/pipelines", ROOT / "tests/stages"}
    items.sort(key=lambda item: (item.path not in slow, item.path.parent not in folders))
