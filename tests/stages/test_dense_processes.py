"""A dense stage that is killed between its two trainings, and one that runs in two processes."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from stages.tiny import OURS_TO_SET, run

from mae import config
from mae.config import recipe
from mae.data.loading.annotations import ground_truth
from mae.data.shards.index import Index
from mae.evaluation.detection.coco_ap import evaluate_detections
from mae.evaluation.segmentation.iou import iou_figures, pixel_counts


def copied(ran, tmp_path, *settings):
    folder = tmp_path / "again"
    shutil.copytree(ran[0], folder, ignore=shutil.ignore_patterns("detect", "segment"))
    for task in ("detect", "segment"):
        shutil.copytree(ran[0] / "data" / task, folder / "data" / task)
    if settings:
        recipe.apply(None, list(settings), folder / "params.yaml")
    return folder, config.load(folder / "params.yaml")


def start(folder, stage, **environment):
    kept = {name: value for name, value in os.environ.items() if name not in OURS_TO_SET}
    return subprocess.Popen(
        [sys.executable, "-m", "mae", stage],
        cwd=folder,
        env=kept | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_dense_stage_killed_in_its_second_training_keeps_the_first_and_ends_the_same(ran, tmp_path):
    longer = ["segment.steps=20", "runtime.checkpoint_every=5"]
    folder, params = copied(ran, tmp_path, *longer)
    run(folder, params, "segment")
    unbroken = (folder / "models/segment/segmenter.safetensors").read_bytes()
    found = json.loads((folder / "reports/segment/metrics.json").read_text())
    for place in ("models/segment", "reports/segment", "work/segment"):
        shutil.rmtree(folder / place)
    process = start(folder, "segment")
    deadline = time.monotonic() + 300
    while not list(folder.glob("work/segment/*/checkpoints/scratch/step-*.pt")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=180)
    (first,) = folder.glob("work/segment/*/checkpoints/pretrained_results/model.safetensors")
    before = first.stat().st_mtime_ns
    assert not list(folder.glob("work/segment/*/checkpoints/pretrained/step-*.pt"))
    noted = json.loads((first.parents[1] / "pretrained.json").read_text())["run_id"]
    assert not (folder / "models/segment/segmenter.safetensors").exists()
    process = start(folder, "segment")
    while not (folder / "models/segment/segmenter.safetensors").exists():
        if first.exists():
            assert first.stat().st_mtime_ns == before, "the first training ran again"
        if process.poll() is not None:
            break
        time.sleep(0.02)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert "going on from step" in said
    assert (folder / "models/segment/segmenter.safetensors").read_bytes() == unbroken
    assert json.loads((folder / "reports/segment/run.json").read_text())["run_id"] == noted
    again = json.loads((folder / "reports/segment/metrics.json").read_text())
    found.pop("images_per_second"), again.pop("images_per_second")
    assert again == found


def in_two_processes(ran, tmp_path, stage):
    """The folder in which two processes ran a dense stage, the index of its data and its figures."""
    folder, _ = copied(ran, tmp_path)
    process = start(folder, stage, PET_NPROC_PER_NODE="2", OMP_NUM_THREADS="1")
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    found = json.loads((folder / f"reports/{stage}/metrics.json").read_text())
    return folder, Index.open(folder / f"data/{stage}/shards"), found


@pytest.mark.slow
def test_two_processes_detect_and_evaluate_every_image_once(ran, tmp_path):
    folder, index, found = in_two_processes(ran, tmp_path, "detect")
    annotations = ground_truth(index.split("val"), index.about["categories"])
    assert found["samples"] == len(annotations["images"])
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        results = json.loads((folder / f"models/detect/results_{name}.json").read_text())
        assert {one["image_id"] for one in results} == {one["id"] for one in annotations["images"]}
        assert len({json.dumps(one, sort_keys=True) for one in results}) == len(results), "evaluated twice"
        assert evaluate_detections(annotations, results, kind).figures["AP"] == pytest.approx(
            found[f"{name}_AP"], abs=1e-9
        )


@pytest.mark.slow
def test_two_processes_segment_and_evaluate_every_image_once(ran, tmp_path):
    folder, index, found = in_two_processes(ran, tmp_path, "segment")
    split, ids = index.split("val"), [one["id"] for one in index.about["categories"]]
    place = np.full(256, 255, dtype=np.uint8)
    place[ids] = np.arange(len(ids))
    counts = []
    for row in range(len(split)):
        annotations = np.asarray(Image.open(io.BytesIO(split.member(row, "labels.png"))))
        drawn = folder / "models/segment/predictions" / f"{split.meta(row)['key']}.png"
        predicted = np.asarray(Image.open(drawn))
        predicted, annotations = (torch.from_numpy(place[values]) for values in (predicted, annotations))
        counts.append(pixel_counts(predicted, annotations, len(ids)))
    assert found["samples"] == len(split)
    assert iou_figures(np.stack(counts))["mIoU"] == pytest.approx(found["mIoU"], abs=1e-9)
