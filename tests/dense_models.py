"""A small detector and segmenter in files of ours, for tests of registering and serving them: a plugin that
conftest.py names."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from mae.serving.model_file import save_dense

NAMES = {"detector": "mae-detector", "segmenter": "mae-segmenter"}
VIT = {"name": "vit_tiny_patch16_224", "img_size": 32, "patch_size": 8}
VIT |= {"embed_dim": 32, "depth": 4, "num_heads": 2}
CATEGORIES = [{"id": 7 * place, "name": name} for place, name in enumerate(("pagoda", "tree", "sky"), 1)]
COLOURS: dict[str, Any] = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.3)}
PHOTOGRAPH = (files("sklearn.datasets.images") / "china.jpg").read_bytes()  # 640 x 427


def write_detector(file: Path) -> None:
    from mae.models.detection.detector import build_detector

    narrow = {"window": 4, "global_blocks": (1, 3), "channels": 16, "box_convs": 1, "box_dim": 32}
    model = build_detector(VIT, len(CATEGORIES), image_size=64, mask_convs=1, rois=32, detections=5, **narrow)
    save_dense(file, model, task="detect", categories=CATEGORIES, size=64, **COLOURS)


def write_segmenter(file: Path) -> None:
    from mae.models.segmentation.segmenter import build_segmenter

    narrow = {"channels": 16, "auxiliary_channels": 8}
    model = build_segmenter(VIT, len(CATEGORIES), crop=48, taps=(0, 1, 2, 3), **narrow)
    save_dense(file, model, task="segment", categories=CATEGORIES, size=48, **COLOURS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dense")
    found = {kind: folder / f"{kind}.safetensors" for kind in NAMES}
    write_detector(found["detector"])
    write_segmenter(found["segmenter"])
    return found
