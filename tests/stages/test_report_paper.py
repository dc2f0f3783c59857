"""The paper's figures stand only beside what they are of."""

import json
import shutil

import pytest

from mae import config, recipe
from mae.stages.report_paper import paper_figures


@pytest.fixture
def figures(project, tmp_path, monkeypatch):
    """Figures for ViT-B with the settings given, on images of that source with so many classes."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(project / "params.yaml", "params.yaml")
    list(recipe.lay(str(project / "recipes/imagenet_vit_base.yaml"), [], onto=tmp_path / "params.yaml"))

    def find(kind, classes, *settings):
        (tmp_path / "data/shards").mkdir(parents=True, exist_ok=True)
        index = {"kind": kind, "classes": [str(number) for number in range(classes)]}
        (tmp_path / "data/shards/index.json").write_text(json.dumps(index))
        if settings:
            list(recipe.lay(None, list(settings), onto=tmp_path / "params.yaml"))
        return paper_figures(config.load("params.yaml"))

    return find


def test_on_imagenet_stand_the_figures_of_each_protocol(figures):
    for kind in ("folder", "imagenet_tar"):
        assert figures(kind, 1000) == {"linear": 68.0, "finetune": 83.6, "scratch": 82.3}


@pytest.mark.parametrize(
    ("kind", "classes", "top1"),
    [
        ("inat2017", 5089, 70.5),
        ("inat2018", 8142, 75.4),
        ("inat2019", 1010, 80.5),
        ("places205", 205, 63.9),
        ("places365", 365, 57.9),
    ],
)
def test_on_another_set_stands_its_fine_tuning_alone(figures, kind, classes, top1):
    assert figures(kind, classes) == {"finetune": top1}
    assert figures(kind, classes - 1) == {}


def test_beside_another_encoder_or_other_classes_stands_nothing(figures):
    assert figures("folder", 200) == {}
    assert figures("folder", 1000, "encoder.depth=6") == {}
