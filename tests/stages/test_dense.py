"""The dense stages: what they leave is what others measure on it."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from stages.tiny import run

from mae import config
from mae.config import recipe
from mae.data.loading.annotations import ground_truth
from mae.data.shards.index import Index


def metrics(folder, stage):
    return json.loads((folder / "reports" / stage / "metrics.json").read_text())


@pytest.mark.parametrize(("name", "kind"), [("box", "bbox"), ("mask", "segm")])
def test_pycocotools_finds_the_reported_ap_in_the_results_json(ran, name, kind, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    folder, _ = ran
    index = Index.open(folder / "data/detect/shards")
    truth = COCO()
    truth.dataset = ground_truth(index.split("val"), index.about["categories"])
    truth.createIndex()
    results = json.loads((folder / f"models/detect/results_{name}.json").read_text())
    assert results, "the detector found nothing at all: the test would say nothing"
    evaluation = COCOeval(truth, truth.loadRes(results), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    found = metrics(folder, "detect")
    reported = [found[f"{name}_{figure}"] for figure in names]
    np.testing.assert_allclose(reported, evaluation.stats, atol=1e-6)


def test_an_independent_confusion_matrix_finds_the_reported_miou_in_the_predicted_maps(ran):
    from sklearn.metrics import confusion_matrix

    folder, _ = ran
    index = Index.open(folder / "data/segment/shards")
    split, ids = index.split("val"), [one["id"] for one in index.about["categories"]]
    total = np.zeros((len(ids), len(ids)), dtype=np.int64)
    for row in range(len(split)):
        truth = np.asarray(Image.open(io.BytesIO(split.member(row, "labels.png"))))
        key = split.meta(row)["key"]
        predicted = np.asarray(Image.open(folder / "models/segment/predictions" / f"{key}.png"))
        known = ~np.isin(truth, index.about["ignore"])
        total += confusion_matrix(truth[known], predicted[known], labels=ids)
    right, union = np.diag(total), total.sum(0) + total.sum(1) - np.diag(total)
    iou = right[union > 0] / union[union > 0]
    found = metrics(folder, "segment")
    assert found["mIoU"] == pytest.approx(iou.mean(), abs=1e-9)
    assert found["aAcc"] == pytest.approx(right.sum() / total.sum(), abs=1e-9)


@pytest.mark.parametrize("stage", ["detect", "segment"])
def test_the_pictures_of_the_report_are_artifacts_of_the_run(ran, stage):
    from mlflow.tracking import MlflowClient

    folder, _ = ran
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    identity = json.loads((folder / f"reports/{stage}/run.json").read_text())
    sent = client.list_artifacts(identity["run_id"], "pictures")
    drawn = {file.name: file.stat().st_size for file in (folder / f"reports/{stage}").glob("*.png")}
    assert {"predictions.png", "curve.png"} < set(drawn)
    assert {entry.path.removeprefix("pictures/"): entry.file_size for entry in sent} == drawn


@pytest.mark.parametrize(("stage", "main"), [("detect", "box_AP"), ("segment", "mIoU")])
def test_scratch_stands_beside_pretrained_with_a_paired_interval(ran, stage, main):
    folder, _ = ran
    found = metrics(folder, stage)
    assert found["init"] == "pretrained"
    assert found["gain"] == pytest.approx(found[main] - found[f"scratch_{main}"], abs=1e-9)
    # Percentiles of a figure that is no mean need not enclose it: on ten images of few classes they may not.
    assert found["gain_low"] <= found["gain_high"]
    columns = (folder / f"reports/{stage}/curve.csv").read_text().splitlines()[0].split(",")
    assert {"step", "loss", "scratch_loss"} <= set(columns)


@pytest.mark.parametrize(("stage", "file"), [("detect", "detector"), ("segment", "segmenter")])
def test_a_repeated_dense_stage_gives_the_same_bytes(ran, stage, file):
    folder, params = ran
    path = folder / f"models/{stage}/{file}.safetensors"
    before = path.read_bytes()
    run(folder, params, stage)
    assert path.read_bytes() == before


def changed(ran, tmp_path, *settings):
    """A copy of the finished run, and its params with other settings."""
    folder, _ = ran
    copy = tmp_path / "again"
    shutil.copytree(folder, copy)
    recipe.apply(None, list(settings), copy / "params.yaml")
    return copy, config.load(copy / "params.yaml")


def test_a_new_detector_and_segmenter_meet_their_champions_on_the_same_images(ran, tmp_path):
    folder, params = changed(ran, tmp_path, "detect.steps=5", "segment.steps=5")
    run(folder, params, "detect", "segment", "register")
    decisions = json.loads((folder / "reports/register/decision.json").read_text())
    for kind, stage, main in (("detector", "detect", "box_AP"), ("segmenter", "segment", "mIoU")):
        found, champion = decisions[kind], metrics(ran[0], stage)[main]
        assert found["challenger"] == pytest.approx(metrics(folder, stage)[main], abs=1e-9)
        assert found["champion"] == pytest.approx(champion, abs=1e-6), "evaluated again, with the same result"
        assert found["low"] <= found["high"]
        assert found["promote"] == (found["gain"] > 0 and found["low"] > 0)
        versions = {model["version"]: model["aliases"] for model in found["models"]}
        assert "champion" in versions["2" if found["promote"] else "1"]
    assert decisions["encoder"]["champion"] is None, "the encoder did not change: it is not evaluated again"


def test_the_other_head_and_one_encoder_alone_are_one_key_each(ran, tmp_path):
    folder, params = changed(ran, tmp_path, "segment={head: dpt, inits: [scratch], steps: 2}")
    run(folder, params, "segment")
    found = metrics(folder, "segment")
    assert found["init"] == "scratch"
    assert "gain" not in found


@pytest.mark.parametrize("stage", ["detect", "segment"])
def test_without_such_data_the_stage_says_so_and_leaves_its_files(ran, tmp_path, stage):
    folder, params = changed(ran, tmp_path, f"ingest_{stage}.source=none")
    run(folder, params, f"ingest_{stage}", f"shard_{stage}", stage)
    assert "source: none" in metrics(folder, stage)["skipped"]
    assert (folder / f"reports/{stage}/predictions.png").stat().st_size > 0
