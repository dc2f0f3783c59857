"""One run of every stage, which the tests of stages look at."""

import pytest
from stages.tiny import ORDER, SectionReads, run, write_tiny_params

from mae import config
from mae.files import read_json, write_json

READ = "sections_read.json"


@pytest.fixture(scope="session")
def ran(project, once, migrated_store):
    """A directory in which every stage ran once, and its params."""

    def fill(folder):
        params, read = write_tiny_params(folder, project, migrated_store), {}
        for stage in ORDER:
            reads = SectionReads(params)
            run(folder, reads, stage)
            read[stage] = sorted(reads.read)
        write_json(folder / READ, read)

    folder = once("pipeline", fill)
    return folder, config.load(folder / "params.yaml")


@pytest.fixture(scope="session")
def sections_read(ran):
    """Of each stage that `ran` ran, the sections of params.yaml that it read."""
    return {stage: set(names) for stage, names in read_json(ran[0] / READ).items()}
