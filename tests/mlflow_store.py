"""Fixtures for tests that need an MLflow store: a plugin that conftest.py names."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def migrated_store(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """An empty sqlite store with its tables made: that takes 4-9 s, so it is done once and copied."""

    def fill(folder: Path) -> None:
        from mae.tracking.server import Server

        Server(f"sqlite:///{folder}/empty.db").find_run("0" * 32)

    return once("store", fill) / "empty.db"


@pytest.fixture
def mlflow_uri(migrated_store: Path, tmp_path: Path) -> str:
    """The address of a fresh, empty store in the test's own folder."""
    shutil.copyfile(migrated_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="module")
def module_mlflow_uri(migrated_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """As `mlflow_uri`, for the whole of a test file."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    shutil.copyfile(migrated_store, path)
    return f"sqlite:///{path}"
