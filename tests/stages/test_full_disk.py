"""A full disk stops a stage in one sentence with the file, and the stage goes on once there is room."""

import errno
import os
import shutil

import pytest
from stages.tiny import run, write_tiny_params

from mae import files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def listed(project, tmp_path_factory, migrated_store):
    folder = tmp_path_factory.mktemp("full")
    params = write_tiny_params(folder, project, migrated_store)
    run(folder, params, "ingest", "shard", "pretrain")
    return folder, params


@pytest.mark.parametrize(
    ("stage", "written"),
    [
        ("ingest", "listing.tsv"),
        ("shard", "train-000000.tar"),
        ("pretrain", "step-000000002.pt"),
        ("pretrain", "encoder.safetensors"),
        ("pretrain", "run.json"),
    ],
)
def test_a_full_disk_names_the_file_and_what_to_do_and_the_stage_goes_on_with_room(
    listed, monkeypatch, stage, written
):
    folder, params = listed
    whole = {path: path.read_bytes() for path in folder.glob("data/**/*") if path.is_file()}
    whole |= {path: path.read_bytes() for path in folder.glob("models/pretrain/*")}
    for left in {"ingest": ("data/ingest",), "shard": ("data/shards", "work/shard")}.get(stage, ()):
        shutil.rmtree(folder / left)
    sync = files.sync

    def full(path):
        if written in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync", full)
        with pytest.raises(RuntimeError) as error:
            run(folder, params, stage)
    said = files.disk_trouble(error.value) or ""
    assert written in said
    assert "no space left" in said
    assert "free some and run again" in said
    outcome = files.read_json(folder / f"work/{stage}/outcome.json")
    assert (outcome["state"], written in outcome["message"]) == ("failed", True)
    assert not list(folder.rglob("*.partial"))
    run(folder, params, stage)
    assert {path: path.read_bytes() for path in whole} == whole
