"""Every method pretrains as a stage, goes on after SIGKILL as if nothing had happened, and is exported."""

import importlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from engine.processes import context
from stages.tiny import TINY, run

from mae import config
from mae.config import recipe
from mae.methods import METHODS
from mae.stages import pretrain as stage

# What a method asks of `pretrain` beyond the tiny settings.
ASKS = {
    "cae": "pretrain={target: pixels, mask: block, mask_ratio: 7, drop_path: 0.1}",
    "beit": "pretrain={target: mean_colour, mask: block, drop_path: 0.1}",
    "simmim": "pretrain={target: pixels, mask: cells, mask_ratio: 0.5}",
    "mpp": "pretrain={target: mosaic, mask_ratio: 0.5}",
    "denoising": "pretrain={target: pixels, mask_ratio: 0.5}",
    "mocov3": "pretrain={augment: two_views, crop_scale: [0.2, 1.0]}",
    "igpt": "pretrain={target: mean_colour, probe: {layers: true}}",
    "ijepa": "pretrain={mask: multiblock}",
}


@pytest.fixture(scope="module")
def sharded(project, tmp_path_factory, migrated_store):
    """A directory with the demo's shards, and its params.yaml."""
    folder = tmp_path_factory.mktemp("methods")
    shutil.copy(project / "params.yaml", folder / "params.yaml")
    shutil.copy(migrated_store, folder / "mlflow.db")
    recipe.apply(None, TINY, folder / "params.yaml")
    run(folder, config.load(folder / "params.yaml"), "ingest", "shard")
    shutil.copy(folder / "params.yaml", folder / "tiny.yaml")
    return folder


def asked(folder, name):
    """Params of the tiny settings with that method, and what it asks for."""
    file = shutil.copy(folder / "tiny.yaml", folder / f"{name}.yaml")
    recipe.apply(None, [f"pretrain.method={name}", *filter(None, [ASKS.get(name)])], Path(file))
    return config.load(file)


def pretrain_and_be_killed(folder, name):
    """The stage, until this process kills itself after step 3; the newest checkpoint is then of step 2."""
    fit = stage.fit

    def fit_and_be_killed(*args, hooks, **settings):
        def hook(step):
            if step == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        return fit(*args, hooks={**hooks, 1: hook}, **settings)

    stage.fit = fit_and_be_killed
    run(folder, asked(folder, name), "pretrain")


def kill_one_by_one(folder, names):
    """A process for each method, forked off this one, which has imported what they need."""
    torch.set_num_threads(1)
    importlib.import_module("mlflow")
    for name in names:
        child = os.fork()
        if child == 0:
            try:
                pretrain_and_be_killed(folder, name)
            finally:
                os._exit(1)
        (folder / f"{name}.killed").write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))


@pytest.fixture(scope="module")
def killed(sharded):
    """The folder, after every method's pretraining was killed in it."""
    process = context().Process(target=kill_one_by_one, args=(sharded, sorted(METHODS)), daemon=True)
    process.start()
    process.join(600)
    assert process.exitcode == 0
    return sharded


@pytest.mark.parametrize("name", sorted(METHODS))
def test_it_ends_the_same_after_a_kill_and_its_encoder_is_timms(name, killed, caplog):
    folder, params, kind = killed, asked(killed, name), METHODS[name]
    assert (folder / f"{name}.killed").read_text() == str(-signal.SIGKILL)
    with caplog.at_level("INFO"):
        run(folder, params, "pretrain")
    assert "going on from step 2 of 6" in caplog.text
    file = folder / "models/pretrain/method.safetensors"
    resumed = file.read_bytes()
    found = json.loads((folder / "reports/pretrain/metrics.json").read_text())
    assert found["steps"] == 6
    assert ("masked" in found, found["attention"] == "causal") == (kind.masked, kind.causal)
    if name == "ijepa":
        assert (found["target_blocks"], found["target_block_patches"], found["masked"]) == (4, 3, 12)
        assert "nothing is reconstructed" in found["pictures_note"]
        assert found["loss"] < 0.8 * found["first_loss"]
    if name == "cae":
        assert (found["masked"], found["patches"]) == (7, 16)
    run(folder, params, "pretrain")
    assert file.read_bytes() == resumed

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes)
    vit.load_state_dict(safetensors.torch.load_file(folder / "models/pretrain/encoder.safetensors"))
    assert torch.isfinite(vit(torch.zeros(1, 3, 32, 32))).all()


def test_the_probe_at_every_layer_is_in_the_metrics(sharded):
    shutil.copy(sharded / "tiny.yaml", sharded / "params.yaml")
    recipe.apply(None, ["pretrain.method=igpt", ASKS["igpt"]], sharded / "params.yaml")
    run(sharded, config.load(sharded / "params.yaml"), "pretrain")
    found = json.loads((sharded / "reports/pretrain/metrics.json").read_text())["layers_top1"]
    assert len(found) == 4
    assert all(0 <= top1 <= 1 for top1 in found)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("supervised.num_classes=7", r"supervised\.num_classes 7: the images have 10 classes"),
        (
            "pretrain.batch_size=1000",
            r"data/shards: 1 to correct\n  pretrain\.batch_size 1000: above the \d+ im",
        ),
    ],
)
def test_settings_that_do_not_go_with_the_data_are_named_before_anything_is_computed(
    sharded, settings, reason
):
    shutil.copy(sharded / "tiny.yaml", sharded / "params.yaml")
    recipe.apply(None, ["pretrain.method=supervised", settings], sharded / "params.yaml")
    with pytest.raises(config.InvalidParams, match=reason):
        run(sharded, config.load(sharded / "params.yaml"), "pretrain")
