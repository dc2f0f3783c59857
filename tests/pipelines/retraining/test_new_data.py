"""Images count as new since the last decision, and some of them are suspect."""

import json
import re
import shutil

import pytest

from mae import config
from pipelines.retraining.new_data import NewData, doubts, rejected_too_many

LOOKS = ("images", "data/ingest"), ("scenes", "data/detect/ingest"), ("maps", "data/segment/ingest")


def list_again(place, folder, fingerprint, **other):
    (place / folder).mkdir(parents=True, exist_ok=True)
    (place / folder / "listing.tsv").write_text(fingerprint)
    manifest = {
        "kind": "folder",
        "root": "/data",
        "fingerprint": fingerprint,
        "splits": {"train": {"count": 3}},
    }
    (place / folder / "manifest.json").write_text(json.dumps(manifest | other))


def reject(root, *paths):
    for folder in ("data/shards", "data/detect/shards", "data/segment/shards"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        found = {"rejected": [{"path": path, "reason": "broken"} for path in paths]}
        (root / folder / "rejected.json").write_text(json.dumps(found))


@pytest.fixture
def root(project, tmp_path):
    shutil.copy(project / "dvc.yaml", tmp_path / "dvc.yaml")
    for fingerprint, folder in LOOKS:
        list_again(tmp_path, folder, fingerprint)
    reject(tmp_path)
    (tmp_path / "work").mkdir()
    return tmp_path


@pytest.fixture
def new_data(root):
    return NewData(root, root / "work/retrain")


def test_the_stages_are_those_of_dvc(new_data):
    assert new_data.stages == ["ingest", "ingest_detect", "ingest_segment"]
    assert new_data.sharding == ["shard", "shard_detect", "shard_segment"]


def test_before_the_first_decision_everything_is_new_and_after_it_nothing(new_data):
    assert new_data.decided is None
    new_data.snapshot()
    assert new_data.changed() == new_data.stages
    assert new_data.listed == 3
    new_data.decide()
    new_data.snapshot()
    assert new_data.changed() == []


def test_a_run_that_was_killed_before_the_decision_finds_the_same_news_again(root, new_data):
    new_data.snapshot()
    new_data.decide()
    list_again(root, "data/ingest", "more")
    for _ in range(2):
        new_data.snapshot()
        assert NewData(root, root / "work/retrain").changed() == ["ingest"]
    assert (new_data.decided / "ingest/listing.tsv").read_text() == "images"


def test_a_decision_is_about_the_listing_of_the_snapshot(root, new_data):
    new_data.snapshot()
    list_again(root, "data/ingest", "later")  # by hand, while the flow trained
    new_data.decide()
    new_data.snapshot()
    assert new_data.changed() == ["ingest"]
    assert len(list((root / "work/retrain").glob("listings-*"))) == 2  # decided upon, and taken
    new_data.decide()
    new_data.snapshot()
    assert len(list((root / "work/retrain").glob("listings-*"))) == 2


def test_deciding_again_after_a_kill_changes_nothing(new_data):
    new_data.snapshot()
    new_data.decide()
    decided = new_data.decided
    new_data.decide()
    assert new_data.decided == decided
    assert (decided / "ingest/listing.tsv").is_file()
    new_data.snapshot()
    assert new_data.changed() == []


def test_a_source_that_moved_is_the_same_source(root, new_data):
    new_data.snapshot()
    new_data.decide()
    list_again(root, "data/ingest", "images", root="/elsewhere")
    new_data.snapshot()
    assert new_data.changed() == []


def test_only_images_that_were_not_rejected_before_count(root, new_data):
    reject(root, "old")
    new_data.snapshot()
    assert new_data.rejected() == 1
    new_data.decide()
    reject(root, "old", "new", "new")
    assert new_data.rejected() == 1


@pytest.fixture
def settings(project):
    return config.load(project / "params.yaml").retrain


def test_what_looks_as_before_is_not_doubted(drifted, settings):
    assert doubts(drifted(), settings) == []
    assert doubts(drifted() | {"classes": None}, settings) == []


def test_each_bound_that_is_passed_is_named_with_its_numbers(drifted, settings):
    for drift, said in (
        (
            drifted(images={"undecodable": 0.2}),
            "20% of the new images looked at cannot be decoded .* allows 5%",
        ),
        (
            drifted(classes={"shift": 0.9}),
            r"shifted by 0\.90 .*max_class_shift allows 0\.3.*cat: from 10% to 15%",
        ),
        (
            drifted(images={"shift": 1.0, "p": 0.0, "blank": {"before": 0.0, "new": 1.0}}),
            r"contrast shifted by 1\.00 .*max_image_shift allows 0\.5.*100% of the new images are blank",
        ),
        (drifted(images={"shift": None, "looked_at": {"before": 0, "new": 50}}), "nothing to compare"),
    ):
        (found,) = doubts(drift, settings)
        assert re.search(said, found), found


def test_a_shift_that_chance_explains_is_not_doubted(drifted, settings):
    assert doubts(drifted(classes={"shift": 0.9, "chance": 0.95}), settings) == []
    assert doubts(drifted(images={"shift": 0.9, "p": 0.2}), settings) == []


def test_rejected_images_count_as_a_share_of_the_new_ones(settings):
    assert rejected_too_many(5, 100, settings) is None
    assert "6 of 100 new images were rejected" in rejected_too_many(6, 100, settings)
    assert rejected_too_many(0, 0, settings) is None


def test_a_damaged_file_counts_as_new_data(root, new_data):
    new_data.snapshot()
    new_data.decide()
    reject(root, "a.jpg")
    (new_data.decided / "ingest/manifest.json").write_text("{")
    (new_data.decided / "shard/rejected.json").write_text("")
    new_data.snapshot()
    assert new_data.changed() == ["ingest"]
    assert new_data.rejected() == 1
