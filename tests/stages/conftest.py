"""One run of every stage, which the tests of stages look at."""

import shutil

import pytest
from stages.tiny import ORDER, TINY, run

from mae import config, recipe


@pytest.fixture(scope="session")
def ran(project, tmp_path_factory, migrated_store):
    """A directory in which every stage ran once, and its params."""
    folder = tmp_path_factory.mktemp("pipeline")
    shutil.copy(project / "params.yaml", folder / "params.yaml")
    list(recipe.lay(None, TINY, onto=folder / "params.yaml"))
    shutil.copy(migrated_store, folder / "mlflow.db")
    params = config.load(folder / "params.yaml")
    run(folder, params, *ORDER)
    return folder, params
