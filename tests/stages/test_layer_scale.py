"""An encoder with LayerScale, as CAE's recipes have it, goes through every stage that evaluates it."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from stages.tiny import run

from mae import config, interchange
from mae.config import recipe

SETTINGS = [
    "encoder.init_values=0.1",
    "pretrain={epochs: 1, warmup_epochs: 0, probe: {every_epochs: 0}}",
    "knn.random_baseline=false",
    *(f"{probe}={{epochs: 1, random_baseline: false}}" for probe in ("linear", "attentive")),
    "partial.blocks=[0.5]",
    *(f"{training}.epochs=1" for training in ("finetune", "scratch")),
    *(f"{task}={{inits: [pretrained], warmup_steps: 0}}" for task in ("detect", "segment")),
]
pytestmark = pytest.mark.slow
EVALUATIONS = ("knn", "linear", "attentive", "partial", "finetune", "scratch", "detect", "segment")


@pytest.fixture(scope="module")
def evaluated(ran, tmp_path_factory):
    """The finished run's data, pretrained and evaluated again with such an encoder."""
    folder = tmp_path_factory.mktemp("scaled")
    shutil.copytree(ran[0] / "data", folder / "data")
    for name in ("mlflow.db", "params.yaml"):
        shutil.copy(ran[0] / name, folder)
    recipe.apply(None, SETTINGS, folder / "params.yaml")
    run(folder, config.load(folder / "params.yaml"), "pretrain", *EVALUATIONS)
    return folder


def weights(folder, name):
    return safetensors.torch.load_file(folder / f"models/{name}.safetensors")


@pytest.mark.parametrize("stage", EVALUATIONS)
def test_its_figures_are_there(evaluated, stage):
    found = json.loads((evaluated / f"reports/{stage}/metrics.json").read_text())
    main = {"detect": "box_AP", "segment": "mIoU"}.get(stage, "top1")
    assert 0 <= found[main] <= 1


def test_its_scales_are_pretrained_and_trained_on(evaluated):
    pretrained, about = interchange.load_encoder(evaluated / "models/pretrain/encoder.safetensors")
    scales = [name for name in pretrained if name.endswith(".gamma")]
    assert about["init_values"] == 0.1
    assert len(scales) == 2 * about["depth"]
    tuned = weights(evaluated, "finetune/classifier")
    inside = {
        name.rpartition("encoder.")[2]: value
        for name, value in weights(evaluated, "segment/segmenter").items()
    }
    for name in scales:
        assert (pretrained[name] - 0.1).abs().max() > 0
        for later in (tuned[name], inside[name]):
            assert torch.isfinite(later).all()
            assert (later - pretrained[name]).abs().max() > 0
