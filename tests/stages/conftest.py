"""One run of every stage, which the tests of stages look at."""

import pytest
from stages.tiny import ORDER, SectionReads, run, write_tiny_params


@pytest.fixture(scope="session")
def sections_read():
    """Of each stage that `ran` ran, the sections of params.yaml that it read."""
    return {}


@pytest.fixture(scope="session")
def ran(project, tmp_path_factory, migrated_store, sections_read):
    """A directory in which every stage ran once, and its params."""
    folder = tmp_path_factory.mktemp("pipeline")
    params = write_tiny_params(folder, project, migrated_store)
    for stage in ORDER:
        reads = SectionReads(params)
        run(folder, reads, stage)
        sections_read[stage] = reads.read
    return folder, params
