"""One run of every stage, which the tests of stages look at."""

import pytest
from stages.tiny import ORDER, laid, run


@pytest.fixture(scope="session")
def ran(project, tmp_path_factory, migrated_store):
    """A directory in which every stage ran once, and its params."""
    folder = tmp_path_factory.mktemp("pipeline")
    params = laid(folder, project, migrated_store)
    run(folder, params, *ORDER)
    return folder, params
