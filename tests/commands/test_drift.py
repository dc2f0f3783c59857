"""`mae drift` says what is new, and shows it."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from stages.tiny import TINY, run

from mae import __main__ as command
from mae import config
from mae.config import recipe


@pytest.fixture
def kept(project, migrated_store, tmp_path, monkeypatch):
    """A folder with images and their listing, and a copy of that listing; images can be added here."""
    shutil.copy(project / "params.yaml", tmp_path / "params.yaml")
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    recipe.apply(None, TINY, tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    listed(tmp_path)
    recipe.apply(None, ["ingest.source=folder"], tmp_path / "params.yaml")
    shutil.copytree("data/ingest", "kept")
    return tmp_path


def listed(folder):
    run(folder, config.load(folder / "params.yaml"), "ingest")


def drift(capsys):
    assert command.main(["drift", "--since", "kept", "--out", "out"]) == 0
    return json.loads(Path("out/drift.json").read_text()), capsys.readouterr().out


def test_nothing_new_says_so(kept, capsys):
    found, said = drift(capsys)
    assert found["counts"] == {
        "before": 80, "now": 80, "new": 0, "changed": 0, "removed": 0, "unchanged": 80
    }  # fmt: skip
    assert found["images"]["shift"] is None
    assert "0 new, 0 changed, 0 removed, 80 unchanged" in said


def test_a_blank_batch_of_one_class_shows_in_numbers_and_pictures(kept, capsys):
    folder = kept
    first = sorted((folder / "data/demo/imagenet/train").iterdir())[0]
    for number in range(30):
        Image.new("RGB", (36, 36), "white").save(first / f"blank{number}.JPEG")
    sorted(first.glob("n*"))[0].unlink()
    listed(folder)
    found, said = drift(capsys)
    assert (found["counts"]["new"], found["counts"]["removed"]) == (30, 1)
    assert len(found["examples"]["new"]) == 20
    assert found["examples"]["removed"][0].startswith(f"train/{first.name}/")
    assert found["classes"]["shift"] > 0.8 > found["classes"]["chance"]
    assert found["classes"]["shares"][0]["class"] == first.name
    assert found["images"]["blank"] == {"before": 0.0, "new": 1.0}
    assert found["images"]["shift"] == 1.0
    assert "classes shifted by 0.9" in said
    for name in ("classes", "statistics", "examples"):
        assert (folder / f"out/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_a_listing_is_named(kept, capsys):
    assert command.main(["drift", "--since", "nowhere", "--out", "out"]) == 1
    assert "nowhere: no listing" in capsys.readouterr().err
