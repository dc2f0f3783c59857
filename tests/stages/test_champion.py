"""The champion's whole method comes out of the registry as it went in."""

import shutil

import pytest
from stages.tiny import run

from mae import __main__ as command
from mae import registry
from mae.files import sha256_of

METHOD, ENCODER = "models/pretrain/method.safetensors", "models/pretrain/encoder.safetensors"


@pytest.fixture
def here(ran, monkeypatch):
    folder, params = ran
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder, params


def champion(out, capsys) -> str:
    assert command.main(["champion", str(out)]) == 0
    return capsys.readouterr().out.strip()


def test_the_champions_method_is_written_under_its_digest_and_only_once(here, tmp_path, capsys):
    folder, _ = here
    path = tmp_path / f"{sha256_of(folder / METHOD)}.safetensors"
    assert champion(tmp_path, capsys) == str(path)
    assert path.read_bytes() == (folder / METHOD).read_bytes()
    assert [path] == list(tmp_path.iterdir())
    before = path.stat().st_ino
    champion(tmp_path, capsys)
    assert path.stat().st_ino == before
    path.write_bytes(b"cut short")
    champion(tmp_path, capsys)
    assert path.read_bytes() == (folder / METHOD).read_bytes()


def test_registering_again_keeps_one_method_and_a_registry_without_it_is_completed(here, tmp_path, capsys):
    from mlflow.tracking import MlflowClient

    folder, params = here
    uri = f"sqlite:///{folder}/mlflow.db"
    client, name = MlflowClient(uri), params.registry.encoder
    version = registry.champion_version(uri, name)
    assert client.get_model_version(name, version).tags["method_digest"] == sha256_of(folder / METHOD)
    client.delete_model_version_tag(name, version, "method_digest")
    assert champion(tmp_path / "alone", capsys).endswith(f"{sha256_of(folder / ENCODER)}.safetensors")
    run(folder, params, "register")
    assert champion(tmp_path / "whole", capsys).endswith(f"{sha256_of(folder / METHOD)}.safetensors")
    assert registry.champion_version(uri, name) == version


def test_without_a_champion_the_command_has_a_status_of_its_own(
    project, migrated_store, tmp_path, monkeypatch, capsys
):
    shutil.copy(project / "params.yaml", tmp_path / "params.yaml")
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert command.main(["champion", "out"]) == command.EXIT_NO_CHAMPION == 3
    said = capsys.readouterr()
    assert "mae-encoder: there is no champion yet" in said.err
    assert not said.out
