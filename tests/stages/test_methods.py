"""Every method pretrains as a stage, goes on after a kill as if nothing had happened, and exports to timm."""

import json
import shutil

import pytest
import safetensors.torch
import timm
import torch
from stages.tiny import TINY, run

from mae import config, recipe
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
}


@pytest.fixture(scope="module")
def sharded(project, tmp_path_factory, migrated_store):
    """A directory with the demo's shards, and its params.yaml."""
    folder = tmp_path_factory.mktemp("methods")
    shutil.copy(project / "params.yaml", folder / "params.yaml")
    shutil.copy(migrated_store, folder / "mlflow.db")
    list(recipe.lay(None, TINY, onto=folder / "params.yaml"))
    run(folder, config.load(folder / "params.yaml"), "ingest", "shard")
    shutil.copy(folder / "params.yaml", folder / "tiny.yaml")
    return folder


@pytest.fixture(params=sorted(METHODS))
def asked(request, sharded):
    shutil.copy(sharded / "tiny.yaml", sharded / "params.yaml")
    settings = [f"pretrain.method={request.param}", *filter(None, [ASKS.get(request.param)])]
    list(recipe.lay(None, settings, onto=sharded / "params.yaml"))
    return sharded, config.load(sharded / "params.yaml")


class Killed(Exception):
    pass


def test_it_ends_the_same_after_a_kill_and_its_encoder_is_timms(asked, monkeypatch):
    folder, params = asked
    name, fit = params.pretrain.method, stage.fit

    def killed_after_three_steps(*args, hooks, **settings):
        def hook(step):
            if step == 3:  # the newest checkpoint is of step 2
                raise Killed

        return fit(*args, hooks={**hooks, 1: hook}, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "fit", killed_after_three_steps)
        with pytest.raises(Killed):
            run(folder, params, "pretrain")
    run(folder, params, "pretrain")
    file = folder / "models/pretrain/method.safetensors"
    resumed = file.read_bytes()
    found, kind = json.loads((folder / "reports/pretrain/metrics.json").read_text()), METHODS[name]
    assert found["steps"] == 6
    assert ("masked" in found, found["attention"] == "causal") == (kind.masked, kind.causal)
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
    list(recipe.lay(None, ["pretrain.method=igpt", ASKS["igpt"]], onto=sharded / "params.yaml"))
    run(sharded, config.load(sharded / "params.yaml"), "pretrain")
    found = json.loads((sharded / "reports/pretrain/metrics.json").read_text())["layers_top1"]
    assert len(found) == 4
    assert all(0 <= top1 <= 1 for top1 in found)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("pretrain.augment=two_views", r"pretrain\.augment 'two_views' makes 2 views .* the method takes 1"),
        ("supervised.num_classes=7", r"supervised\.num_classes is 7, but the shards have 10 classes"),
    ],
)
def test_settings_that_do_not_go_with_the_method_are_named(sharded, settings, reason):
    shutil.copy(sharded / "tiny.yaml", sharded / "params.yaml")
    list(recipe.lay(None, ["pretrain.method=supervised", settings], onto=sharded / "params.yaml"))
    with pytest.raises(config.InvalidParams, match=reason):
        run(sharded, config.load(sharded / "params.yaml"), "pretrain")
