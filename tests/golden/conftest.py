"""The bench of the goldens, and the option by which `make golden` keeps values instead of comparing them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from golden.bench import Bench


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-goldens", action="store_true", help="keep new values (make golden)")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs that several cases begin from."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def bench(
    tmp_path: Path, project: Path, shared_folder: Path, request: pytest.FixtureRequest
) -> Iterator[Bench]:
    """An empty folder to run a case in, on one thread: sums are then added in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path, project, lambda: request.getfixturevalue("migrated_store"), shared_folder)
    torch.set_num_threads(threads)
