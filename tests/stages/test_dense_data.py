"""The sets of users that a dense stage accepts, and those that it refuses before a training."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask
from PIL import Image
from stages.tiny import run, write_tiny_params

from mae import interchange
from mae.config.paths import DETECTION, DETECTOR, ENCODER
from mae.data.sources.base import SourceError
from mae.report.parts.dense_tasks import detection
from mae.serving.model_file import config_of
from mae.stages import detect


@pytest.fixture
def place(project, migrated_store, tmp_path):
    """A folder with a store, and params with these settings."""
    return lambda *settings: (tmp_path, write_tiny_params(tmp_path, project, migrated_store, *settings))


def coco(root, split, sizes, annotations):
    """A split of noisy images 0, 1 ... of `sizes` (width, height); annotations: boxes [4, 4, 16, 12]."""
    (root / split).mkdir(parents=True)
    images = []
    for number, (width, height) in enumerate(sizes):
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        shade = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(shade).save(root / split / f"{number}.png")
    box = {"category_id": 1, "bbox": [4, 4, 16, 12], "area": 192, "iscrowd": 0, "segmentation": []}
    rows = [{"id": number, **box, **one} for number, one in enumerate(annotations, 1)]
    tables = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "one"}]}
    (root / f"{split}.json").write_text(json.dumps(tables))


def maps(root, split, values):
    """A split of noisy 40x32 images, each with a label map of one value, of two classes."""
    for folder in ("images", "labels"):
        (root / folder / split).mkdir(parents=True)
    for number, value in enumerate(values):
        shade = np.random.default_rng(number).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(shade).save(root / f"images/{split}/{number}.png")
        Image.fromarray(np.full((32, 40), value, np.uint8)).save(root / f"labels/{split}/{number}.png")
    (root / "classes.txt").write_text("sky\nroad\n")


def test_a_set_without_images_to_evaluate_by_is_refused_when_it_is_listed(place, tmp_path):
    coco(tmp_path / "coco", "train", [(40, 32)] * 4, [{"image_id": image} for image in range(4)])
    maps(tmp_path / "maps", "train", [0, 1])
    for task, source in (("detect", "coco"), ("segment", "label_maps")):
        stage = f"ingest_{task}"
        folder, params = place(f"{stage}.source={source}", f"{stage}.root={tmp_path / source.split('_')[-1]}")
        with pytest.raises(
            SourceError, match=rf"no val split to evaluate {task} by.*--set {stage}.val_fraction=0.1"
        ):
            run(folder, params, stage)
        _, params = place(f"{stage}.source=none")
        run(folder, params, stage)


def test_how_many_objects_of_an_image_are_trained_on_is_a_setting(place):
    _, params = place("detect.max_objects=3")
    ctx = SimpleNamespace(params=params, index=SimpleNamespace(about={"categories": []}))
    box = {"iscrowd": 0, "category": 0, "segmentation": [[4, 4, 20, 4, 20, 16, 4, 16]]}
    _, target = detect._task(ctx).transform(
        torch.zeros(3, 32, 40, dtype=torch.uint8), {"image_id": 1, "annotations": [box] * 9}
    )
    assert len(target["labels"]) == 3


@pytest.fixture
def encoder(ran, place):
    """As `place`, with the tiny run's encoder in it."""

    def made(*settings):
        folder, params = place(*settings)
        shutil.copytree(ran[0] / "models/pretrain", folder / "models/pretrain")
        return folder, params

    return made


CROWD = {"iscrowd": 1, "segmentation": {"size": [32, 40], "counts": [0, 320, 960]}, "bbox": [0, 0, 10, 32]}


def test_a_val_split_without_anything_to_evaluate_by_is_refused_before_training(
    encoder, tmp_path, monkeypatch
):
    coco(tmp_path / "coco", "train", [(40, 32)] * 4, [{"image_id": image} for image in range(4)])
    coco(tmp_path / "coco", "val", [(40, 32)] * 2, [{"image_id": 0, **CROWD}])
    maps(tmp_path / "maps", "train", [0, 1, 0, 1])
    maps(tmp_path / "maps", "val", [255, 255])
    monkeypatch.setattr(
        "mae.stages.context.dense_stage.train_dense", lambda *given, **settings: pytest.fail("trained")
    )
    folder, params = encoder(
        f"ingest_detect={{source: coco, root: {tmp_path / 'coco'}}}",
        f"ingest_segment={{source: label_maps, root: {tmp_path / 'maps'}}}",
    )
    for task, missing in (("detect", "object that is no crowd"), ("segment", "labelled pixel")):
        run(folder, params, f"ingest_{task}", f"shard_{task}")
        with pytest.raises(ValueError, match=f"2 images of the split val have no {missing}, nothing to"):
            run(folder, params, task)


SIZES = [(1, 40), (6000, 40), (40, 32), (40, 32), (33, 47), (40, 1)]


def odd(root):
    """A COCO tree: a column, a strip of 6000 pixels, a crowd alone, nothing at all, runs, a row."""
    holes = np.zeros((47, 33), np.uint8)
    holes[4:16, 4:20:2] = 1
    runs = coco_mask.encode(np.asfortranarray(holes))["counts"].decode()
    objects = [
        {"image_id": 0, "bbox": [0, 3, 1, 30]},
        *({"image_id": 1, "bbox": [left, 2, 900, 30]} for left in range(0, 5100, 85)),
        {"image_id": 2, **CROWD},
        {"image_id": 4, "segmentation": {"size": [47, 33], "counts": runs}},
        {"image_id": 5, "bbox": [5, 0, 20, 1]},
    ]
    for split in ("train", "val"):
        coco(root, split, SIZES, objects)
    return root


@pytest.mark.slow
def test_odd_images_are_detected_in_and_evaluated(encoder, tmp_path):
    settings = "{image_size: 64, max_objects: 20, steps: 6, batch_size: 6, milestones: [5]}"
    folder, params = encoder(
        f"ingest_detect={{source: coco, root: {odd(tmp_path / 'coco')}}}", f"detect={settings}"
    )
    state, about = interchange.load_encoder(folder / ENCODER)
    interchange.save_encoder(folder / ENCODER, state, {**about, "mean": [0.1, 0.2, 0.3]})
    run(folder, params, "ingest_detect", "shard_detect", "detect")
    found = json.loads((folder / "reports/detect/metrics.json").read_text())
    assert found["samples"] == len(SIZES)
    assert 0 <= found["box_AP_low"] <= found["box_AP"] <= 1
    assert (folder / "reports/detect/predictions.png").stat().st_size > 0
    assert config_of(folder / DETECTOR)["mean"] == [0.1, 0.2, 0.3], "as the encoder's own file says"
    index = json.loads((folder / DETECTION.index).read_text())
    assert (index["boxes_only"], index["rejected"]["count"]) == (2 * 62, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shown = detection({"detect": found}, params)
    assert shown["data"]["boxes_only"] == 124, "the report names them"
