"""The flow `retrain` on a small pipeline: real stages, real registry, images that come and go."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from stages.tiny import TINY

from mae import config, results
from mae.config import recipe
from mae.config.paths import VERSIONS
from mae.files import write_json
from pipelines.retrain import retrain, rollback
from pipelines.working_copy import locks

pytestmark = pytest.mark.slow
STAGES = ("ingest", "shard", "pretrain", "finetune", "register")
SMALL = [
    "ingest.source=folder",
    "demo={train: 200, val: 100}",
    "finetune={labels_per_class: 10, epochs: 4}",
    "retrain={min_new: 5, samples: 64, max_image_shift: 0.6}",
    "flows={retries: 0, grace: 20.0}",
]


@pytest.fixture(scope="module")
def begun(project, tmp_path_factory, migrated_store, dvc, prefect_server):
    """A working copy of five of the stages in which a first retraining made the first champion."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copy(project / "params.yaml", folder / "params.yaml")
    recipe.apply(None, [*TINY, *SMALL], folder / "params.yaml")
    shutil.copy(migrated_store, folder / "mlflow.db")
    stages = config.read_yaml(project / "dvc.yaml")["stages"]
    kept = {name: stages[name] for name in STAGES}
    made = {
        str(out if isinstance(out, str) else next(iter(out))) for one in kept.values() for out in one["outs"]
    }
    for stage in kept.values():
        stage["deps"] = [dep for dep in stage.get("deps", []) if any(dep.startswith(out) for out in made)]
    (folder / "dvc.yaml").write_text(json.dumps({"stages": kept}))  # JSON is YAML
    write_json(folder / VERSIONS, results.versions())
    dvc(folder, "init", "--no-scm", "--quiet")
    _demo(folder)
    return folder, _retrain(folder)


def _demo(folder):
    from mae.data.demo.imagenet_layout import write_demo

    write_demo(folder / "data/demo", seed=0, train=200, val=100, size=36)


def _retrain(folder, **parameters):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return retrain(**parameters, return_state=True)


@pytest.fixture
def copy(begun, tmp_path):
    """That working copy, for a test of its own."""
    shutil.copytree(begun[0], tmp_path / "copy")
    return tmp_path / "copy"


def champion(folder):
    from mae import registry

    return registry.champion_version(f"sqlite:///{folder}/mlflow.db", "mae-encoder")


def images(folder, number=0):
    classes = sorted((folder / "data/demo/imagenet/train").iterdir())
    return sorted(classes[number].iterdir())


def add(folder, count, blank=False):
    """Images of the demo's kind of all classes, or white ones of one."""
    for number in range(count):
        near = images(folder, 0 if blank else number % 10)[number // 10]
        picture = Image.new("RGB", (36, 36), "white") if blank else Image.open(near).rotate(3)
        picture.save(near.with_name(f"new{number}.JPEG"))


def artifact(key):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        return client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.CREATED_DESC, limit=1)[0].data


def lock(folder):
    return config.read_yaml(folder / "dvc.lock")["stages"]


def test_the_first_retraining_makes_the_first_champion(begun):
    folder, state = begun
    assert (state.name, state.type.value) == ("Promoted", "COMPLETED")
    assert "there was no champion" in state.message
    assert champion(folder) == "1"
    assert config.load(folder / "params.yaml").pretrain.init is None


def test_nothing_new_ends_early_and_green(copy):
    before = lock(copy)["shard"]
    state = _retrain(copy)
    assert (state.name, state.is_completed()) == ("Unchanged data", True)
    add(copy, 3)
    state = _retrain(copy)
    assert (state.name, state.is_completed()) == ("Too few new images", True)
    assert "3 new" in state.message
    assert lock(copy)["shard"] == before


def test_a_blank_batch_of_one_class_is_stopped_before_any_training(copy):
    add(copy, 20, blank=True)
    before = (copy / "params.yaml").read_bytes(), lock(copy)["shard"], lock(copy)["pretrain"]
    state = _retrain(copy)
    assert (state.name, state.is_failed()) == ("Suspect data", True)
    assert "classes' shares shifted by 0.9" in state.message
    assert "100% of the new images are blank" in state.message
    page = artifact("drift")
    assert "max_class_shift" in page
    assert page.count("data:image/png;base64,") == 3
    assert champion(copy) == "1"
    assert ((copy / "params.yaml").read_bytes(), lock(copy)["shard"], lock(copy)["pretrain"]) == before


def test_a_worse_challenger_is_kept_out_and_leaves_no_setting_behind(copy):
    add(copy, 30)
    images(copy, 5)[0].unlink()
    before = (copy / "params.yaml").read_bytes()
    state = _retrain(copy, overrides={"finetune.base_lr": 0, "finetune.min_lr": 0})
    assert (state.name, state.is_completed()) == ("Champion kept", True), state.message
    assert champion(copy) == "1"
    assert (copy / "params.yaml").read_bytes() == before
    init = lock(copy)["pretrain"]["params"]["params.yaml"]["pretrain"]["init"]
    assert init.startswith("work/retrain/champion/")  # it went on from the champion
    assert (copy / init).is_file()
    assert "champion kept" in artifact("decision")
    page = artifact("drift")
    assert "| 300 | 329 | 30 | 0 | 1 | 299 |" in page
    assert _retrain(copy).name == "Unchanged data"  # it is decided


def test_a_second_run_in_the_same_copy_ends_at_once_and_says_who_is_there(copy, prefect_server):
    code = "import sys, time; from pathlib import Path; from pipelines.working_copy import locks\n"
    code += "with locks.exclusive(Path.cwd()):\n    print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code], cwd=copy, env=os.environ, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    state = _retrain(copy)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert (state.name, state.is_cancelled()) == ("Busy", True)
    assert str(holder.pid) in state.message
    assert (copy / locks.FILE).is_file()


def test_rollback_asks_the_registry_while_a_flow_is_at_work_and_says_that_there_is_no_way_back(
    copy, monkeypatch
):
    monkeypatch.chdir(copy)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with locks.exclusive(copy):
        state = rollback(return_state=True)
    assert state.is_failed()
    assert "there is no previous champion" in state.message
