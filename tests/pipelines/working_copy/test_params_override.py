"""Settings of one run in params.yaml are undone after it, however it ended."""

import argparse
import errno
import os
import shutil
from pathlib import Path

import pytest

from mae import config
from pipelines.working_copy.params_override import ParamsOverride, Settings


@pytest.fixture
def root(project, tmp_path):
    shutil.copy(project / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


@pytest.fixture
def override(root):
    return ParamsOverride(root, root / "work/retrain")


def test_settings_of_a_run_are_undone_byte_for_byte(root, override):
    before = (root / "params.yaml").read_bytes()
    changes = override.apply(
        {"pretrain.base_lr": 1e-9, "pretrain.betas": [0.9, 0.99], "retrain.start": "scratch"}
    )
    assert len(changes) == 3
    override.apply({"pretrain.init": "a.safetensors"})
    params = config.load(root / "params.yaml")
    assert (params.pretrain.base_lr, params.pretrain.betas) == (1e-9, (0.9, 0.99))
    assert (params.pretrain.init, params.retrain.start) == ("a.safetensors", "scratch")
    assert "is restored" in override.restore()
    assert (root / "params.yaml").read_bytes() == before
    assert override.restore() is None


def test_the_work_folder_may_lie_on_another_file_system(root, override, monkeypatch):
    before, real = (root / "params.yaml").read_bytes(), os.replace

    def within(source, target):
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "replace", within)
    override.apply({"pretrain.epochs": 3000})
    override.restore()
    assert (root / "params.yaml").read_bytes() == before


def test_after_a_kill_another_process_undoes_them(root, override):
    before = (root / "params.yaml").read_bytes()
    override.apply({"pretrain.epochs": 3000})
    assert ParamsOverride(root, root / "work/retrain").restore()
    assert (root / "params.yaml").read_bytes() == before


def test_accepted_settings_stay(root, override):
    override.apply({"pretrain.epochs": 3000})
    override.accept()
    assert override.restore() is None
    assert config.load(root / "params.yaml").pretrain.epochs == 3000


def test_a_file_that_somebody_changed_meanwhile_is_not_overwritten(root, override):
    override.apply({"pretrain.epochs": 3000})
    text = (root / "params.yaml").read_text().replace("seed: 0", "seed: 7")
    (root / "params.yaml").write_text(text)
    assert "stays as it is now" in override.restore()
    assert (root / "params.yaml").read_text() == text


def test_values_that_cannot_be_change_nothing(root, override):
    before = (root / "params.yaml").read_bytes()
    for values in ({"pretrain.epochs": "many"}, {"pretrain.eopchs": 3}):
        with pytest.raises(config.InvalidParams, match=r"pretrain\.e"):
            override.apply(values)
    assert (root / "params.yaml").read_bytes() == before
    assert override.restore() is None
    assert [path.name for path in root.iterdir() if path.is_file()] == ["params.yaml"]


def test_settings_of_a_command_line_become_values_and_what_is_none_is_refused(capsys):
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", action=Settings)
    assert parser.parse_args([]).set is None
    given = parser.parse_args(["--set", "pretrain.epochs=5", "--set", "ingest.path=/a=b", "--set", "x.y="])
    assert given.set == {"pretrain.epochs": 5, "ingest.path": "/a=b", "x.y": None}
    parts = parser.parse_args(["--set", "demo={train: 6, size: 8}", "--set", "demo={train: 7}"])
    assert parts.set == {"demo.train": 7, "demo.size": 8}
    with pytest.raises(SystemExit):
        parser.parse_args(["--set", "pretrain.epochs"])
    assert "expected KEY=VALUE" in capsys.readouterr().err
