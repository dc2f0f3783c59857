"""A pretraining goes on from another's weights, where its settings are the same."""

import json
import shutil

import pytest
import safetensors.torch
import torch
from stages.tiny import run
from torch.testing import assert_close

from mae import config, interchange
from mae.config import recipe
from mae.models.patches import patchify
from mae.models.pca import Moments, PatchPCA
from mae.models.tokenizer import KMeans
from mae.stages.pretrain import build_method
from mae.stages.pretraining.initial_weights import load_initial_weights, method_config

METHOD, ENCODER = "models/pretrain/method.safetensors", "models/pretrain/encoder.safetensors"


def changed(params: config.Params, seed: int = 0, **sections) -> config.Params:
    values = params.model_dump() | {"seed": seed}
    for name, more in sections.items():
        values[name] |= more
    return config.parse(values)


@pytest.fixture
def from_file(ran):
    """Params that go on from a file of the run; and the run's folder."""
    folder, params = ran

    def made(file: str, **sections) -> config.Params:
        pretrain = sections.pop("pretrain", {})
        return changed(params, pretrain={"init": str(folder / file), **pretrain}, **sections)

    return made


def test_without_a_file_the_weights_are_the_seeds(ran):
    _, params = ran
    method = build_method(params)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    assert load_initial_weights(method, params) is None
    assert_close(method.state_dict(), before)


def test_a_method_file_gives_encoder_and_decoder(from_file, ran):
    params = from_file(METHOD)
    method = build_method(params)
    origin = load_initial_weights(method, params)
    assert origin.whole
    assert_close(method.state_dict(), safetensors.torch.load_file(ran[0] / METHOD))
    assert not method.encoder.pos_embed.requires_grad


def test_an_encoder_file_gives_the_encoder_and_says_that_the_rest_is_new(from_file, ran, caplog):
    params = from_file(ENCODER)
    method, fresh = build_method(params), build_method(params)
    with caplog.at_level("INFO"):
        origin = load_initial_weights(method, params)
    assert not origin.whole
    assert "the encoder alone" in caplog.text
    assert_close(method.encoder.state_dict(), safetensors.torch.load_file(ran[0] / ENCODER))
    assert_close(method.decoder.state_dict(), fresh.decoder.state_dict())


@pytest.mark.parametrize(
    ("key", "sections"),
    [
        ("encoder.num_heads", {"encoder": {"num_heads": 4}}),
        (
            "encoder.depth",
            {"encoder": {"depth": 2}, "detect": {"global_blocks": [1]}, "segment": {"taps": [0, 0, 1, 1]}},
        ),
        ("encoder.img_size", {"encoder": {"img_size": 64}}),
        ("input.mean", {"input": {"mean": [0.5, 0.5, 0.5]}}),
        ("pretrain.target", {"pretrain": {"target": "pixels"}}),
        ("mae.decoder_embed_dim", {"mae": {"decoder_embed_dim": 32}}),
    ],
)
def test_a_file_of_other_settings_is_refused_by_the_name_of_the_key(key, sections, from_file):
    params = from_file(METHOD, **sections)
    with pytest.raises(ValueError, match=rf"pretrain\.init: .*method\.safetensors was trained .* {key} is"):
        load_initial_weights(build_method(params), params)


@pytest.mark.parametrize(("norm_pix", "target"), [(True, "normalised_pixels"), (False, "pixels")])
def test_a_file_from_before_there_were_targets_is_still_known(norm_pix, target, from_file, ran, tmp_path):
    state, about = interchange.open_weights(ran[0] / METHOD)
    older = {"task": "pretrain", "method": "mae", "encoder": about["encoder"]}
    sizes = {key: about["settings"][key] for key in about["settings"] if key.startswith("decoder")}
    file = tmp_path / "older.safetensors"
    interchange.save_weights(file, state, older | {"settings": {**sizes, "norm_pix": norm_pix}})
    other = {"pixels": "normalised_pixels", "normalised_pixels": "pixels"}[target]
    for asked in (target, other):
        params = from_file(METHOD, pretrain={"init": str(file), "target": asked})
        if asked == target:
            assert load_initial_weights(build_method(params), params).whole
        else:
            with pytest.raises(ValueError, match=f"pretrain.target is {other}, there {target}"):
                load_initial_weights(build_method(params), params)


def fitted(target, seed):
    """A file like that of the stage `tokenizer` for the tiny encoder, fitted to images by that seed."""
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    if target == "tokens":
        made = KMeans((4, 4), (8, 8), codes=8)
        made.start(made.vectors(images).flatten(0, 1), seed=seed)
        return made
    made, moments = PatchPCA((4, 4), (8, 8), components=8), Moments(192)
    moments.add(patchify(images, 8).flatten(0, 1))
    made.take(moments)
    return made


@pytest.mark.parametrize(("target", "kind"), [("tokens", "kmeans"), ("pca", "pca")])
@pytest.mark.parametrize("older", [False, True])
def test_the_target_that_was_fitted_for_this_run_stays(target, kind, older, ran, tmp_path, monkeypatch):
    file = tmp_path / "first.safetensors"
    params = changed(
        ran[1], pretrain={"target": target}, tokenizer={"kind": kind, "components": 8, "codes": 8}
    )
    monkeypatch.setattr("mae.stages.pretrain.fitted_for", lambda _: fitted(target, seed=0))
    first = build_method(params)
    state = dict(first.state_dict())
    assert not any(name.startswith("target.") for name in state)
    if older:
        state |= {f"target.{kind}.{name}": value for name, value in first.target.fitted.state_dict().items()}
    interchange.save_weights(file, state, method_config(params))

    monkeypatch.setattr("mae.stages.pretrain.fitted_for", lambda _: fitted(target, seed=1))
    params = changed(params, seed=5, pretrain={"init": str(file)})
    method = build_method(params)
    assert load_initial_weights(method, params).whole
    assert_close(method.state_dict(), first.state_dict())
    assert_close(method.target.fitted.state_dict(), fitted(target, seed=1).state_dict(), rtol=0, atol=0)


def test_the_same_encoder_under_another_name_is_taken(from_file):
    params = from_file(METHOD, encoder={"name": "vit_small_patch16_224"})
    load_initial_weights(build_method(params), params)


def test_a_file_without_a_config_is_checked_weight_by_weight(from_file, ran, tmp_path):
    state = safetensors.torch.load_file(ran[0] / METHOD)
    file = tmp_path / "bare.safetensors"
    safetensors.torch.save_file(state, file)
    params = from_file(METHOD, pretrain={"init": str(file)})
    assert load_initial_weights(build_method(params), params).whole
    state["decoder.mask_token"] = torch.zeros(1, 1, 7)
    safetensors.torch.save_file(state, file)
    with pytest.raises(ValueError, match=r"decoder\.mask_token is \(1, 1, 7\) instead of"):
        load_initial_weights(build_method(params), params)


def test_weights_that_are_not_finite_are_refused_by_name(from_file, ran, tmp_path):
    state, about = interchange.open_weights(ran[0] / METHOD)
    state["decoder.mask_token"][0, 0, 0] = torch.inf
    interchange.save_weights(tmp_path / "wrong.safetensors", state, about)
    params = from_file(METHOD, pretrain={"init": str(tmp_path / "wrong.safetensors")})
    with pytest.raises(ValueError, match=r"pretrain\.init: .* not finite .*: decoder\.mask_token;"):
        load_initial_weights(build_method(params), params)


def test_what_is_no_such_file_is_named(from_file, ran):
    for file, reason in (
        ("nowhere.safetensors", "no such file"),
        ("params.yaml", "no checkpoint, but a text that begins with"),
    ):
        params = from_file(file)
        with pytest.raises(ValueError, match=rf"pretrain\.init: .*{file}: {reason}"):
            load_initial_weights(build_method(params), params)


def resume_folders(folder):
    return {path for path in (folder / "work/pretrain").iterdir() if path.is_dir()}


def test_the_stage_goes_on_from_the_file_and_its_content_names_the_resume_folder(ran, tmp_path):
    folder, _ = ran
    for name in ("data", "mlflow.db", "params.yaml"):
        copy = shutil.copytree if (folder / name).is_dir() else shutil.copy
        copy(folder / name, tmp_path / name)
    shutil.copy(folder / METHOD, tmp_path / "first.safetensors")
    # Nothing is learnt at rate 0: the result is what was begun with.
    recipe.apply(
        None, ["pretrain={init: first.safetensors, base_lr: 0, min_lr: 0}"], tmp_path / "params.yaml"
    )
    params = config.load(tmp_path / "params.yaml")
    run(tmp_path, params, "pretrain")
    state, about = interchange.open_weights(tmp_path / METHOD)
    assert_close(state, interchange.open_weights(folder / METHOD)[0])
    assert about["task"] == "pretrain"
    first = resume_folders(tmp_path)
    assert len(first) == 1
    state["decoder.mask_token"] += 1
    interchange.save_weights(tmp_path / "first.safetensors", state, about)
    run(tmp_path, params, "pretrain")
    assert len(resume_folders(tmp_path) - first) == 1
    from mlflow.tracking import MlflowClient

    identity = json.loads((tmp_path / "reports/pretrain/run.json").read_text())
    tags = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(identity["run_id"]).data.tags
    assert "first.safetensors" in tags["init"]
