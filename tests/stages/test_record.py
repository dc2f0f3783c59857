"""The code that made a result: taken at the start, compared at the end, named by run, report and model."""

import json
import shutil
import subprocess

import pytest
from mlflow.tracking import MlflowClient
from stages.tiny import run, write_tiny_params

from mae import results
from mae.stages.context import tracked_run as tracked
from mae.stages.context.tracked_run import stage_folder
from mae.tracking import InUse

TRAINED_BY = {"encoder": "pretrain", "classifier": "finetune", "detector": "detect", "segmenter": "segment"}


@pytest.fixture
def checkout(tmp_path, project, migrated_store, monkeypatch):
    """A git checkout with parameters; commit() makes another commit and gives its name."""
    params = write_tiny_params(tmp_path, project, migrated_store)
    monkeypatch.chdir(tmp_path)

    def commit():
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
        done = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "add", "params.yaml"], check=True)
    return params, commit, tmp_path


def record(folder):
    return json.loads((folder / "reports/knn/run.json").read_text())


def opened(params, folder, **more):
    return tracked.tracked("knn", params, folder=folder / "work/knn", **more)


def taken(*_, **__):
    raise InUse("process 1 is at work there")


def test_a_commit_made_while_a_stage_runs_is_not_recorded_as_its_own(checkout):
    params, commit, folder = checkout
    first = commit()
    with opened(params, folder):
        assert commit() != first
    assert record(folder)["commit"] == first
    assert record(folder)["code"] == results.code_digest()
    assert "code_changed" not in record(folder)


def test_code_that_changes_while_a_stage_runs_is_said_and_recorded(checkout, monkeypatch, caplog):
    params, commit, folder = checkout
    commit()
    began = results.code_digest()
    with opened(params, folder):
        monkeypatch.setattr(results, "code_digest", lambda: "other")
    assert "the code changed while knn ran" in caplog.text
    assert record(folder)["code"] == began
    assert record(folder)["code_changed"] is True


def test_a_resumed_stage_keeps_the_code_of_its_first_start_and_says_that_it_differs(
    checkout, monkeypatch, caplog
):
    params, commit, folder = checkout
    first = commit()
    with pytest.raises(KeyboardInterrupt), opened(params, folder) as begun:
        raise KeyboardInterrupt
    commit()
    monkeypatch.setattr(results, "code_digest", lambda: "other")
    with opened(params, folder, run_id=begun.id):
        pass
    assert record(folder)["commit"] == first
    assert record(folder)["code_changed"] is True
    assert "resumes with other" in caplog.text
    tags = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_run(begun.id).data.tags
    assert tags["git.commit"] == tags["mlflow.source.git.commit"] == first
    assert tags["code.digest"] == record(folder)["code"] != "other"


def test_a_stage_that_an_older_release_began_resumes_as_of_unknown_code(checkout, caplog):
    params, commit, folder = checkout
    commit()
    with pytest.raises(KeyboardInterrupt), opened(params, folder) as begun:
        raise KeyboardInterrupt
    (folder / "work/knn/code.json").unlink()
    for _ in range(2):
        with opened(params, folder, run_id=begun.id):
            pass
        assert (record(folder)["commit"], record(folder)["code"]) == ("unknown", "unknown")
        assert record(folder)["dirty"] is None
        assert record(folder)["code_changed"] is True
    assert "knn started with code unknown" in caplog.text


def test_a_process_that_finds_a_stage_at_work_leaves_the_record_of_its_code(checkout, monkeypatch):
    params, _, folder = checkout
    monkeypatch.setattr(tracked.tracking, "start", taken)
    with pytest.raises(InUse), opened(params, folder):
        pass
    assert not (folder / "work/knn/code.json").exists()


def test_a_comment_changes_the_digest_of_the_code_and_no_version(tmp_path):
    shutil.copytree(results.PACKAGE, tmp_path / "mae", ignore=shutil.ignore_patterns("__pycache__"))
    assert results.code_digest(tmp_path / "mae") == results.code_digest()
    file = tmp_path / "mae/evaluation/confidence.py"
    file.write_text(file.read_text() + "# a comment\n")
    assert results.code_digest(tmp_path / "mae") != results.code_digest()


def test_a_raised_version_begins_in_a_folder_of_its_own(ran, monkeypatch):
    _, params = ran
    before = stage_folder("pretrain", params)
    raised = results.versions()
    raised["pretrain"]["cae"] += 1
    monkeypatch.setattr(results, "versions", lambda: raised)
    assert stage_folder("pretrain", params) == before
    raised["pretrain"]["mae"] += 1
    assert stage_folder("pretrain", params) != before


def test_registered_models_and_the_report_tell_the_commit_that_trained_them(ran, tmp_path, migrated_store):
    folder, params = ran
    shutil.copytree(folder, tmp_path / "again")
    folder = tmp_path / "again"
    for number, stage in enumerate(TRAINED_BY.values()):
        file = folder / "reports" / stage / "run.json"
        file.write_text(
            json.dumps(json.loads(file.read_text()) | {"commit": str(number) * 40, "code": stage})
        )
    shutil.copy(migrated_store, folder / "mlflow.db")  # a registry that has nothing yet
    run(folder, params, "register", "report")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    report = (folder / "reports/report.md").read_text()
    for number, (kind, stage) in enumerate(TRAINED_BY.items()):
        tags = client.get_model_version_by_alias(getattr(params.registry, kind), "champion").tags
        assert (tags["git.commit"], tags["code_digest"]) == (str(number) * 40, stage)
        assert f"`{str(number) * 12}`" in report


def test_a_lineage_that_no_record_tells_is_registered_as_unknown(ran, tmp_path, migrated_store):
    folder, params = ran
    shutil.copytree(folder, tmp_path / "again")
    folder = tmp_path / "again"
    old = folder / "reports/segment/run.json"
    old.write_text(json.dumps({"commit": "a" * 40, "dirty": None}))  # an older release's, without git
    other = folder / "reports/detect/run.json"  # as after another program wrote the model
    other.write_text(json.dumps(json.loads(other.read_text()) | {"model": "0" * 64}))
    shutil.copy(migrated_store, folder / "mlflow.db")
    run(folder, params, "register")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    kinds = ("git.commit", "git.dirty", "code_digest", "data_digest", "params_digest")
    for name, commit in ((params.registry.segmenter, "a" * 40), (params.registry.detector, "unknown")):
        tags = client.get_model_version_by_alias(name, "champion").tags
        assert [tags[kind] for kind in kinds] == [commit, *["unknown"] * 4]
