"""What many tests use: the real data sets beside the checkout, where they are."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

pytest_plugins = ("mlflow_store", "mlflow_server", "dense_models")

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
