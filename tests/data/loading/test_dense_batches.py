"""The demo's dense layouts through the whole of mae.data: written, listed, sharded, loaded with targets."""

import numpy as np
import torch

from mae.data.demo.ade20k_layout import label_map, write_demo_ade20k
from mae.data.demo.coco_layout import write_demo_coco
from mae.data.demo.scenes import dense_look, scenes
from mae.data.loading.annotations import LabelMap, Objects
from mae.data.loading.batches import evaluation_batches, training_batches
from mae.data.transforms.detection import detection_evaluation, large_scale_jitter
from mae.data.transforms.segmentation import segmentation_evaluation, segmentation_training

SETTINGS = {"train": 30, "val": 10, "size": 56, "seed": 0}
STEPS = {"global_batch": 6, "start": 0, "stop": 3, "seed": 0, "workers": 1}


def test_scenes_come_as_boxes_and_masks(tmp_path, sharded):
    write_demo_coco(tmp_path, **SETTINGS)
    index = sharded(tmp_path / "coco", "coco")
    read = Objects(index.about["categories"])
    for batch in training_batches(index.split("train"), large_scale_jitter(56), target=read, **STEPS):
        assert batch["images"].shape == (6, 3, 56, 56)
        for target in batch["targets"]:
            assert target["masks"].shape == (len(target["labels"]), 56, 56)
    alone = large_scale_jitter(56, scale=(1, 1), flip=False)
    shown = list(scenes("val", 10, size=56, seed=0, look=dense_look(56)))
    seen = set()
    for batch in evaluation_batches(index.split("val"), alone, batch_size=4, target=read):
        for target in batch["targets"]:
            scene = shown[target["image_id"] - 1_000_001]
            boxes = sorted((digit.label, *digit.box) for digit in scene.digits)
            got = zip(target["labels"].tolist(), target["boxes"].int().tolist(), strict=True)
            assert sorted((label, *box) for label, box in got) == boxes
            seen.add(scene.index)
    assert seen == set(range(10))
    for batch in evaluation_batches(
        index.split("val"), detection_evaluation(28), batch_size=4, target=read, workers=1
    ):
        assert batch["images"].shape[1:] == (3, 28, 28)
        assert all(one["size"] == (56, 56) and one["inner"] == (28, 28) for one in batch["targets"])


def test_scenes_come_as_label_maps(tmp_path, sharded):
    write_demo_ade20k(tmp_path, **SETTINGS)
    index = sharded(tmp_path / "ADEChallengeData2016", "ade20k")
    read = LabelMap(index.about["categories"], index.about["ignore"])
    for batch in training_batches(index.split("train"), segmentation_training(48), target=read, **STEPS):
        assert batch["images"].shape == (6, 3, 48, 48)
        assert all(target["labels"].shape == (48, 48) for target in batch["targets"])
    truth = {
        (label_map(scene) - np.uint8(1)).tobytes()
        for scene in scenes("val", 10, size=56, seed=0, look=dense_look(56))
    }
    got = [
        target["labels"]
        for batch in evaluation_batches(
            index.split("val"), segmentation_evaluation(56), batch_size=4, target=read
        )
        for target in batch["targets"]
    ]
    assert {labels.numpy().tobytes() for labels in got} == truth
    assert torch.stack(got).unique().tolist() == [*range(11), 255]
