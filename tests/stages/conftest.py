"""One run of every stage, which the tests of stages look at."""

import pytest
from stages.tiny import ORDER, Watched, laid, run


@pytest.fixture(scope="session")
def sections_read():
    """Of each stage that `ran` ran, the sections of params.yaml that it read."""
    return {}


@pytest.fixture(scope="session")
def ran(project, tmp_path_factory, migrated_store, sections_read):
    """A directory in which every stage ran once, and its params."""
    folder = tmp_path_factory.mktemp("pipeline")
    params = laid(folder, project, migrated_store)
    for stage in ORDER:
        watched = Watched(params)
        run(folder, watched, stage)
        sections_read[stage] = watched.read
    return folder, params
