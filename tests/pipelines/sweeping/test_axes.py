"""Axes of sweeps, and the experiments that follow from them."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mae import config, results
from mae.config import recipe
from mae.methods import METHODS
from pipelines.sweeping import axes, result_fingerprint

NAMES = tuple(axes.load(Path(__file__).parents[3]).axes)
BASE = str(Path(__file__).parents[3] / "recipes/imagenet_vit_base.yaml")
LARGE = str(Path(__file__).parents[3] / "recipes/imagenet_vit_large.yaml")


@pytest.fixture(scope="module", autouse=True)
def graph_read_once():
    """Read dvc.yaml once: DVC takes a second for it, and no test changes a file that was read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(result_fingerprint, "upstreams", functools.cache(result_fingerprint.upstreams))
        yield


@pytest.fixture(scope="module")
def planned(project):
    """A function that plans an axis of the project as it is."""

    def plan(name, **options):
        return axes.plan(project, name, **options)

    return plan


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_every_axis_makes_parameters_that_can_be(name, planned, project):
    experiments = planned(name)
    assert len({one.name for one in experiments}) == len(experiments) > 1
    assert {stage for one in experiments for stage in one.stages} <= set(
        config.read_yaml(project / "dvc.yaml")["stages"]
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_value_can_be_swept_at_the_papers_size_too(name, planned):
    planned(name, recipe_file=LARGE, settings={"ingest.root": "/data/imagenet"})


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_the_papers_numbers_apply_only_at_the_papers_size(name, planned, project):
    """`source` says it in words; a target or a schedule that the axis itself varies is not applied."""
    source = axes.load(project).axis(name).source
    settings = {
        "pretrain.epochs": 800 if "800 epochs" in source else None,
        "pretrain.target": "pixels" if "raw pixels" in source else None,
    }
    settings = {key: value for key, value in settings.items() if value is not None}
    assert settings == axes.load(project).axis(name).settings
    for one in planned(name, recipe_file=LARGE, settings={"ingest.root": "/data/imagenet"}):
        assert {key: one.settings.get(key) for key in settings} == settings, one.at
    for one in planned(name):
        assert one.settings.get("pretrain.epochs", 0) <= 32, one.at
    assert settings or not source.startswith("ViT-L")


def test_a_small_model_on_other_images_is_swept_as_the_demo_is(planned, project):
    tiny = str(project / "recipes/tiny_imagenet_vit_tiny.yaml")
    found = planned("decoder_width", recipe_file=tiny, settings={"ingest.root": "/images"})
    assert [one.at for one in found] == [16, 32, 64, 128]
    assert {(one.settings["pretrain.epochs"], one.settings.get("pretrain.target")) for one in found} == {
        (20, None)
    }


def test_the_demo_is_made_small_and_another_recipe_is_applied_instead(planned):
    small = planned("mask_ratio")[0].settings
    large = planned("mask_ratio", recipe_file=LARGE, settings={"ingest.root": "/images"})[0].settings
    assert small["demo.train"] == 4000
    assert "demo.train" not in large
    assert large["encoder.name"] == "vit_large_patch16_224"


def test_a_value_wins_over_the_recipe_and_over_settings(planned):
    found = planned("mask_ratio", settings={"pretrain.mask_ratio": 0.33, "pretrain.epochs": 3})
    assert [one.settings.get("pretrain.mask_ratio", 0.75) for one in found] == [one.at for one in found]
    assert {one.settings["pretrain.epochs"] for one in found} == {3}


def test_several_seeds_begin_with_that_of_the_parameters(planned):
    found = planned("mask_ratio", seeds=3, settings={"seed": 5})
    assert [one.seed for one in found[:3]] == [5, 6, 7]
    assert [one.settings["seed"] for one in found[:3]] == [5, 6, 7]
    assert len({one.name for one in found}) == len(found)


def test_a_name_tells_what_the_stages_depend_on_and_nothing_else(planned):
    name = planned("mask_ratio")[0].name
    assert planned("mask_ratio", settings={"runtime.workers": 3, "detect.rois": 7})[0].name == name
    assert planned("mask_ratio", settings={"linear.epochs": 7})[0].name != name


def test_a_raised_version_has_another_name_and_a_changed_line_has_not(project, tmp_path, monkeypatch):
    for file in ("params.yaml", "sweeps.yaml", "recipes/sweep_demo.yaml"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text((project / file).read_text())
    version = {"data/versions.json": ["pretrain.${pretrain.method}"]}
    stages = {"linear": {"cmd": "true", "params": ["pretrain", version]}, "finetune": {"cmd": "true"}}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": stages}))
    (tmp_path / "mae").mkdir()
    (tmp_path / "mae/code.py").write_text("1")
    for command in (["git", "init", "-q"], ["git", "add", "."], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    name = axes.plan(tmp_path, "mask_ratio")[0].name
    (tmp_path / "mae/code.py").write_text("2")  # not committed
    assert axes.plan(tmp_path, "mask_ratio")[0].name == name
    raised = results.versions()
    raised["pretrain"]["cae"] += 1
    monkeypatch.setattr(results, "versions", lambda: raised)
    assert axes.plan(tmp_path, "mask_ratio")[0].name == name
    raised["pretrain"]["mae"] += 1
    assert axes.plan(tmp_path, "mask_ratio")[0].name != name
    (tmp_path / "mae/other.py").write_text("")
    with pytest.raises(config.InvalidParams, match=r"git does not track.*: git add mae/other\.py"):
        axes.plan(tmp_path, "mask_ratio")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("values: [1, 2]", r"axes\.depth.*set nothing"),
        ("key: k, values: [1, 2, 1]", r"axes\.depth\.values: .*1: name each value once"),
        ("key: k, valeus: []", r"axes\.depth\.valeus: .*did you mean values"),
        ("key: k, values: []", r"axes\.depth\.values: .*at least 1 item"),
        ("key: k, values: [1], demo: []", r"axes\.depth\.demo: .*at least 1 item"),
        (
            "key: k, values: [1], stages: [pretrain]",
            r"axes\.depth\.stages: .*stages of a sweep: 'pretrain' is not one of",
        ),
        (
            "key: k, values: [{at: 1, paper: {knn: 1}}]",
            r"axis depth has the paper's knn, but does not run",
        ),
        ("values: [{at: 1, set: {seed: 3}}]", r"axes\.depth\.values\.0: .*--seeds does"),
    ],
)
def test_what_is_wrong_with_sweeps_yaml_is_named(tmp_path, more, message):
    (tmp_path / "sweeps.yaml").write_text(
        f"stages: [linear]\ndemo_recipe: x\naxes: {{depth: {{title: t, label: l, {more}}}}}\n"
    )
    with pytest.raises(config.InvalidParams, match=message):
        axes.load(tmp_path)


def test_an_unknown_axis_is_an_error_that_lists_those_there_are(planned):
    with pytest.raises(
        config.InvalidParams, match=r"axis 'masks' is not one of mask_ratio, .*did you mean mask"
    ):
        planned("masks")


def test_a_value_that_cannot_be_is_an_error_before_anything_runs(planned):
    with pytest.raises(config.InvalidParams, match=r"pretrain\.epochs"):
        planned("mask_ratio", settings={"pretrain.epochs": -1})
    with pytest.raises(config.InvalidParams, match=r"seed"):
        planned("mask_ratio", settings={"seed": "abc"})


def test_a_key_that_there_is_not_is_named_with_its_axis(tmp_path, project):
    for file in ("params.yaml", "sweeps.yaml", "recipes/sweep_demo.yaml"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(
            (project / file).read_text().replace("mae.mask_tokens", "mae.mask_token")
        )
    with pytest.raises(
        config.InvalidParams, match=r"sweeps\.yaml, mask_token encoder: mae\.mask_token is not"
    ):
        axes.plan(tmp_path, "mask_token")


def test_a_method_is_swept_by_its_own_recipe_and_on_the_demo_by_its_settings(planned):
    large = {
        one.at: one.settings for one in planned("method", recipe_file=LARGE, settings={"ingest.root": "/i"})
    }
    small = {one.at: one.settings for one in planned("method")}
    assert large["BEiT"]["tokenizer.kind"] == "fsq"
    assert small["BEiT"]["tokenizer.kind"] == "kmeans"
    assert large["BEiT"]["pretrain.method"] == small["BEiT"]["pretrain.method"] == "beit"


def test_every_method_that_has_a_recipe_has_a_place_among_the_methods_on_the_demo_too(planned, project):
    recipes = (recipe.read_recipe(file) for file in (project / "recipes").glob("*.yaml"))
    with_recipe = {one["pretrain"]["method"] for one in recipes if "method" in one.get("pretrain", {})}
    assert with_recipe <= set(METHODS)
    for options in ({}, {"recipe_file": BASE, "settings": {"ingest.root": "/images"}}):
        found = planned("method", **options)
        assert {one.settings.get("pretrain.method", "mae") for one in found} == with_recipe
        assert "scratch" in found[0].stages
    assert "MAE's learning rate" in axes.load(project).axis("method").note


def test_a_section_that_dvc_reads_out_of_the_parameters_is_part_of_the_name(planned):
    """In dvc.yaml, pretrain depends on the section that `pretrain.method` names, and on no other method's."""
    cae = planned("cae_mask_ratio")[0].name
    assert planned("cae_mask_ratio", settings={"cae.regressor_depth": 3})[0].name != cae
    assert planned("cae_mask_ratio", settings={"mae.decoder_depth": 3})[0].name == cae


def test_equal_pretrainings_run_once_before_the_other_experiments(planned):
    blocks = planned("blocks", seeds=2)
    first, rest = axes.waves(blocks)
    assert [(one.at, one.seed) for one in first] == [(0, 0), (0, 1)]
    assert sorted(one.name for one in (*first, *rest)) == sorted(one.name for one in blocks)
    assert len(axes.waves(planned("mask", seeds=2))) == 1
