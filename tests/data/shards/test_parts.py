"""Shards written by several processes, each its parts: the same bytes, whatever happens in between."""

import subprocess
import sys
import threading

import pytest

from mae.data.listing.manifest import open_source, write_listing
from mae.data.shards.index import Index
from mae.data.shards.publish import work_lock
from mae.data.shards.shard_job import ShardJob, ShardSettings
from mae.data.shards.write_shards import list_parts, write_parts, write_shards
from mae.files import write_json

_PART = """
import sys
from mae.data.shards.shard_job import ShardJob, ShardSettings
from mae.data.shards.write_shards import write_parts
write_parts(ShardJob("listing", "out", "work", "kept", ShardSettings(max_count=7)), sys.argv[1:])
"""


@pytest.fixture
def job(tmp_path, image_tree, monkeypatch):
    """Makes the job of what is in images/ now; the working directory is tmp_path."""
    monkeypatch.chdir(tmp_path)
    image_tree(tmp_path / "images")

    def make() -> ShardJob:
        write_listing(open_source("folder", tmp_path / "images"), "listing")
        return ShardJob("listing", "out", "work", "kept", ShardSettings(max_count=7))

    return make


def publish(out: str = "out", work: str = "work", kept: str | None = "kept", **options) -> dict:
    return write_shards("listing", out, work, reuse_dir=kept, max_count=7, **options)


def test_parts_written_by_several_processes_at_once_give_the_bytes_of_one_run(job, project, monkeypatch):
    names = list_parts(job())
    assert names == [f"train-{n:06d}.tar" for n in range(6)] + [f"val-{n:06d}.tar" for n in range(2)]
    groups = [names[start::3] for start in range(3)]
    runs = [
        subprocess.Popen([sys.executable, "-c", _PART, *group], env={"PYTHONPATH": str(project)})
        for group in groups
    ]
    assert [run.wait(180) for run in runs] == [0, 0, 0]
    assert list_parts(job()) == []
    with monkeypatch.context() as patch:
        patch.setattr("mae.data.shards.write_shards.ShardWriter.write", lambda *_: pytest.fail("wrote"))
        index = publish()
    assert list_parts(job()) == []
    assert index == publish("fresh", "fresh.work", None)
    Index.open("out").verify()


def test_a_part_needs_no_list_before_it_and_a_finished_one_is_left_alone(job, tmp_path):
    write_parts(job(), ["val-000001.tar", "train-000002.tar"])
    tar = tmp_path / "work/val-000001.tar"
    before = tar.stat().st_ino
    said: list[str] = []
    write_parts(job(), ["val-000000.tar", "val-000001.tar"], said.append)
    assert tar.stat().st_ino == before
    assert [line.split(":")[0] for line in said] == ["val-000000.tar"]
    assert len(list_parts(job())) == 5
    publish(log=said.append)
    assert "resuming: 3 of 8 shards are finished already" in said
    write_parts(job(), ["val-000000.tar"], said.append)
    assert "nothing to do" in said[-1]
    assert not tar.exists()


def test_only_the_new_images_are_in_parts_of_a_second_batch(job, tmp_path, encoded, picture):
    write_parts(job(), list_parts(job()))
    publish()
    for number in range(9):
        (tmp_path / f"images/train/class_0/new{number}.jpg").write_bytes(encoded(picture(900 + number)))
    said: list[str] = []
    assert list_parts(job(), said.append) == ["train-000006.tar", "train-000007.tar"]
    assert said == ["reuse 8 shards (50 images), write 2 new"]
    write_parts(job(), ["train-000007.tar"])
    assert list_parts(job()) == ["train-000006.tar"]
    assert publish()["splits"]["train"]["count"] == 50


def test_a_part_of_another_listing_is_not_taken(job, tmp_path):
    write_parts(job(), ["train-000000.tar"])
    (tmp_path / "images/train/class_0/train 0 3.JPEG").unlink()
    assert "train-000000.tar" in list_parts(job())
    assert publish() == publish("fresh", "fresh.work", None)


def test_a_part_that_there_is_not_is_refused_by_name(job):
    with pytest.raises(ValueError, match=r"no shard is called nope\.tar; of 8 the first are train-000000"):
        write_parts(job(), ["train-000000.tar", "nope.tar"])


def test_who_publishes_waits_for_who_writes(job, tmp_path):
    job()
    said: list[str] = []
    with work_lock(tmp_path / "work", said.append, alone=False):
        with work_lock(tmp_path / "work", said.append, alone=False):
            assert said == []  # parts are written side by side
        stage = threading.Thread(target=publish, kwargs={"log": said.append})
        stage.start()
        stage.join(0.5)
        assert stage.is_alive()
        assert ["waiting for it" in line for line in said] == [True]
        assert not (tmp_path / "out/index.json").exists()
    stage.join(180)
    assert (tmp_path / "out/index.json").exists()


def test_the_command_names_the_parts_and_writes_them(tmp_path, image_tree, project, monkeypatch, capsys):
    import json

    from mae.__main__ import main
    from mae.config.recipe import apply

    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((project / "params.yaml").read_text())
    apply(None, ["shard.max_count=7"], tmp_path / "params.yaml")
    (tmp_path / "data/detect/ingest").mkdir(parents=True)
    write_json(tmp_path / "data/detect/ingest/manifest.json", {"kind": "none"})
    write_listing(open_source("folder", image_tree(tmp_path / "images")), "data/ingest")

    def named(stage: str = "shard") -> list[str]:
        assert main([stage, "--list-parts"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert len(named()) == 8
    assert main(["shard", "--part", *named()[:3]]) == 0
    assert (tmp_path / "work/shard/partial/train-000002.tar").is_file()
    assert named() == [f"train-{n:06d}.tar" for n in (3, 4, 5)] + [f"val-{n:06d}.tar" for n in (0, 1)]
    assert main(["shard", "--part", "nope"]) == 1
    assert "no shard is called nope" in capsys.readouterr().err
    assert named("shard_detect") == []
