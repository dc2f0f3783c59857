"""The stages, one after another, on a tiny demo: what each leaves, what a repeat and a kill change."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from stages.tiny import ORDER, TINY, run

from mae import config
from mae.config import recipe


def metrics(folder: Path, stage: str) -> dict:
    return json.loads((folder / "reports" / stage / "metrics.json").read_text())


def test_every_stage_leaves_the_files_that_dvc_expects(ran, project):
    folder, _ = ran
    for name, stage in config.read_yaml(project / "dvc.yaml")["stages"].items():
        for kind in ("outs", "metrics", "plots"):
            for out in stage.get(kind, []):
                path = folder / (out if isinstance(out, str) else next(iter(out)))
                assert path.exists(), f"{name}: {path}"


# Where a stage runs, and how much of its data may turn out bad before it ends: nothing of what it computes.
NOT_RESULTS = {"runtime", "shard", "shard_detect", "shard_segment"}


def test_a_stage_reads_no_setting_that_dvc_does_not_watch(ran, sections_read, project):
    stages = config.read_yaml(project / "dvc.yaml")["stages"]
    unwatched = {}
    for name, stage in stages.items():
        if stage.get("always_changed"):  # it looks each time
            continue
        sections = [key for key in stage["params"] if isinstance(key, str)]
        watched = {key.replace("${pretrain.method}", ran[1].pretrain.method) for key in sections}
        unwatched[name] = sections_read[name] - watched - NOT_RESULTS
    assert unwatched["detect"] == unwatched["pretrain"] == set()
    assert not {name: keys for name, keys in unwatched.items() if keys}


def test_the_numbers_are_of_this_run(ran):
    folder, _params = ran
    pretrained = metrics(folder, "pretrain")
    assert pretrained["steps"] == 6
    assert 0 < pretrained["loss"] < pretrained["first_loss"]
    for stage in ("knn", "linear", "attentive"):
        found = metrics(folder, stage)
        assert found["samples"] == 20
        assert found["top1_low"] <= found["top1"] <= found["top1_high"]
        assert found["gain"] == pytest.approx(found["top1"] - found["random_top1"])
    rows = (folder / "reports/partial/blocks.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["blocks", "0.0", "0.5", "2.0"]
    assert np.load(folder / "models/finetune/correct.npy").mean() == metrics(folder, "finetune")["top1"]


def test_the_report_tells_what_was_measured(ran):
    folder, _params = ran
    report = (folder / "reports/report.md").read_text()
    for stage in ("knn", "linear", "attentive", "finetune", "scratch"):
        assert f"{100 * metrics(folder, stage)['top1']:.1f}" in report
    for name in json.loads((folder / "data/ingest/manifest.json").read_text())["splits"]:
        assert name in report
    assert "12 of 16 patches masked (random)" in report
    assert "only itself and those before it" not in report
    page = (folder / "reports/report.html").read_text()
    assert page.count("data:image/png;base64,") == 11
    assert 'src="http' not in page


def test_the_report_says_that_a_causal_encoder_is_evaluated_with_every_token_in_sight(ran, tmp_path):
    folder, params = ran
    shutil.copytree(folder, tmp_path / "again")
    file = tmp_path / "again/reports/pretrain/metrics.json"
    file.write_text(json.dumps(metrics(folder, "pretrain") | {"attention": "causal"}))
    run(tmp_path / "again", params, "report")
    report = (tmp_path / "again/reports/report.md").read_text()
    results = report.partition("## Results")[2].partition("\n## ")[0]
    assert "each token saw only itself and those before it" in results


def test_the_first_model_is_champion_and_an_unchanged_one_is_not_evaluated_again(ran):
    folder, params = ran
    decision = folder / "reports/register/decision.json"
    before = decision.read_bytes()
    found = json.loads(before)
    assert set(found) == {"encoder", "detector", "segmenter"}
    for outcome in found.values():
        assert outcome["promote"]
        aliases = {alias for model in outcome["models"] for alias in model["aliases"]}
        assert aliases >= {"champion", "challenger"}
    run(folder, params, "register")
    assert decision.read_bytes() == before


def test_a_repeated_stage_gives_the_same_bytes(ran):
    folder, params = ran
    files = ["models/pretrain/encoder.safetensors", "models/finetune/classifier.safetensors"]
    files += ["data/ingest/manifest.json", "data/shards/index.json", "reports/pretrain/reconstructions.png"]
    before = {file: (folder / file).read_bytes() for file in files}
    shards = {path: path.stat().st_mtime_ns for path in (folder / "data/shards/tars").iterdir()}
    run(folder, params, "ingest", "shard", "pretrain", "finetune")
    assert {file: (folder / file).read_bytes() for file in files} == before
    assert {path: path.stat().st_mtime_ns for path in (folder / "data/shards/tars").iterdir()} == shards


def test_every_stage_has_a_run_under_one_parent(ran):
    from mlflow.tracking import MlflowClient

    folder, params = ran
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name(params.runtime.experiment)
    runs = client.search_runs([experiment.experiment_id])
    by_id = {found.info.run_id: found for found in runs}
    parents = set()
    for stage in set(ORDER) - {"versions"}:  # which measures nothing
        identity = json.loads((folder / "reports" / stage / "run.json").read_text())
        if "skipped" in identity:  # its params say that there is nothing to do
            continue
        found = by_id[identity["run_id"]]
        assert found.info.status == "FINISHED"
        assert found.info.run_name == stage
        parents.add(found.data.tags["mlflow.parentRunId"])
    assert parents <= set(by_id)
    pretrained = by_id[json.loads((folder / "reports/pretrain/run.json").read_text())["run_id"]]
    assert pretrained.data.params["pretrain.mask_ratio"] == "0.75"
    assert pretrained.inputs.dataset_inputs[0].dataset.name == "shards"
    pictures = {entry.path for entry in client.list_artifacts(pretrained.info.run_id, "pictures")}
    assert pictures == {"pictures/curve.png", "pictures/reconstructions.png"}


def test_images_without_labels_are_pretrained_on_and_not_evaluated(ran, project, migrated_store, tmp_path):
    folder, _ = ran
    images = tmp_path / "images"
    images.mkdir()
    for number, file in enumerate(sorted((folder / "data/demo/imagenet").rglob("*.JPEG"))):
        shutil.copy(file, images / f"{number}.jpg")
    shutil.copy(project / "params.yaml", tmp_path / "params.yaml")
    shutil.copy(migrated_store, tmp_path / "mlflow.db")
    flat = ["ingest={source: flat, root: images, val_fraction: 0.2}", "pretrain.batch_size=10"]
    flat += ["ingest_detect.source=none", "ingest_segment.source=none"]
    recipe.apply(None, [*TINY, *flat], tmp_path / "params.yaml")
    run(tmp_path, config.load(tmp_path / "params.yaml"), *ORDER)
    assert "no labels" in (tmp_path / "reports/report.md").read_text()
    assert (tmp_path / "models/pretrain/encoder.safetensors").is_file()
    assert json.loads((tmp_path / "reports/register/decision.json").read_text())["encoder"]["models"]
