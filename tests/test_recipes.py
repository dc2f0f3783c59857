"""The paper-scale recipes hold the papers' numbers: He et al. 2021, A, as released; CAE's probe."""

import math
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from code_blocks import blocks, commands

from mae import config
from mae.__main__ import main
from mae.config import recipe
from mae.config.sections import Input
from mae.methods import METHODS
from mae.stages import detect, segment
from mae.stages.context.stage_context import encoder_config

ROOT = Path(__file__).parent.parent

# arXiv 2111.06377: fine-tuning as released; epochs of linear probing; epochs and drop path from scratch.
BY_SIZE = {
    "base": {
        "name": "vit_base_patch16_224",
        "epochs": 100,
        "base_lr": 5e-4,
        "decay": 0.65,
        "drop": 0.1,
        "linear": 90,
        "scratch": (300, 0.1),
    },
    "large": {
        "name": "vit_large_patch16_224",
        "epochs": 50,
        "base_lr": 1e-3,
        "decay": 0.75,
        "drop": 0.2,
        "linear": 50,
        "scratch": (200, 0.2),
    },
    "huge": {
        "name": "vit_huge_patch14_224",
        "epochs": 50,
        "base_lr": 1e-3,
        "decay": 0.75,
        "drop": 0.3,
        "linear": 50,
        "scratch": (200, 0.2),
    },
}


@pytest.fixture(params=BY_SIZE)
def applied(request, project, tmp_path):
    """Params with the recipe over them, and what the paper says of that size."""
    onto = tmp_path / "params.yaml"
    onto.write_text((project / "params.yaml").read_text())
    recipe.apply(str(project / f"recipes/imagenet_vit_{request.param}.yaml"), [], onto)
    return config.load(onto), BY_SIZE[request.param]


def test_pretraining_is_the_papers(applied):
    params, paper = applied
    p = params.pretrain
    assert params.encoder.name == paper["name"]
    assert params.encoder.img_size == 224
    assert params.encoder.overrides == {}
    assert (p.epochs, p.batch_size, p.base_lr, p.min_lr, p.warmup_epochs) == (1600, 4096, 1.5e-4, 0, 40)
    assert (p.weight_decay, p.betas, p.clip_grad, p.ema, p.mask_ratio) == (
        0.05,
        (0.9, 0.95),
        None,
        None,
        0.75,
    )
    assert (p.crop_scale, p.flip, p.method) == ((0.2, 1.0), True, "mae")
    decoder = params.mae
    assert (decoder.decoder_depth, decoder.decoder_embed_dim, decoder.decoder_num_heads) == (8, 512, 16)
    assert decoder.mask_tokens == "decoder"
    assert (p.target, p.mask, p.drop_path) == ("normalised_pixels", "random", 0)


def test_a_tokenizer_has_the_size_of_the_images_and_sees_the_crops_of_its_papers(applied, project):
    params, _ = applied
    t = params.tokenizer
    assert (t.kind, t.components, math.prod(t.levels), t.codes) == ("none", 96, 8192, 8192)
    assert (t.width, t.depth) == (64, 2), "the constructor's"
    assert (t.crop_scale, t.flip, t.batch_size) == ((0.08, 1.0), True, 512)
    assert t.epochs >= 10, "a pass over ImageNet is 2,500 steps"
    own = config.read_yaml(project / "params.yaml")["tokenizer"]
    named = recipe.read_recipe(project / f"recipes/imagenet_vit_{params.encoder.name.split('_')[1]}.yaml")
    assert set(own) == set(named["tokenizer"]), "none is left to the demo"


def test_fine_tuning_is_the_released_recipe(applied):
    params, paper = applied
    f = params.finetune
    assert (f.epochs, f.base_lr, f.layer_decay, f.drop_path) == (
        paper["epochs"], paper["base_lr"], paper["decay"], paper["drop"],
    )  # fmt: skip
    assert (f.batch_size, f.warmup_epochs, f.min_lr, f.weight_decay, f.betas) == (
        1024,
        5,
        1e-6,
        0.05,
        (0.9, 0.999),
    )
    assert (f.rand_augment, f.random_erasing, f.mixup, f.cutmix, f.smoothing) == (
        "rand-m9-mstd0.5-inc1", 0.25, 0.8, 1.0, 0.1,
    )  # fmt: skip
    assert (f.crop_scale, f.flip, f.labels_per_class) == ((0.08, 1.0), True, None)


def test_partial_fine_tuning_has_the_settings_of_fine_tuning(applied):
    params, _ = applied
    both = set(config.Augmented.model_fields)
    assert params.partial.model_dump(include=both) == params.finetune.model_dump(include=both)
    assert params.partial.epochs == [50, 100, 200]
    assert {0, 0.5, 1, 4, 6} < set(params.partial.blocks)


def test_probes_are_the_papers(applied):
    params, paper = applied
    linear, attentive = params.linear, params.attentive
    assert (linear.epochs, linear.batch_size, linear.base_lr, linear.warmup_epochs) == (
        paper["linear"],
        16384,
        0.1,
        10,
    )
    assert (linear.weight_decay, linear.momentum, linear.flip, linear.pool) == (0, 0.9, True, "token")
    assert attentive.base_lr * attentive.batch_size / 256 == pytest.approx(0.4)
    assert (attentive.epochs, attentive.batch_size, attentive.momentum, attentive.warmup_epochs) == (
        90,
        8192,
        0.9,
        10,
    )


def test_scratch_is_the_papers(applied):
    params, paper = applied
    s = params.scratch
    assert (s.epochs, s.drop_path) == paper["scratch"]
    assert (s.base_lr, s.weight_decay, s.betas, s.batch_size) == (1e-4, 0.3, (0.9, 0.95), 4096)
    assert (s.warmup_epochs, s.ema, s.layer_decay) == (20, 0.9999, None)
    assert (s.rand_augment, s.mixup, s.cutmix, s.random_erasing) == ("rand-m9-mstd0.5-inc1", 0.8, 1.0, 0.25)


# CAE (arXiv 2202.03026): LayerScale; fine-tuning's epochs, lr at batch 4096, layer decay, drop path.
CAE = {"base": (0.1, 100, 8e-3, 0.65, 0.1), "large": (1e-5, 50, 2e-3, 0.75, 0.2)}


@pytest.mark.parametrize("size", CAE)
def test_cae_is_the_papers(size, project, tmp_path):
    params = _over(project, tmp_path, f"imagenet_vit_{size}", f"cae_vit_{size}")
    p, f, c = params.pretrain, params.finetune, params.cae
    assert (p.method, p.target, p.mask, p.mask_ratio) == ("cae", "tokens", "block", 75)
    assert (p.epochs, p.warmup_epochs, p.batch_size, p.min_lr) == (1600, 40, 2048, 1e-5)
    assert p.base_lr * p.batch_size / 256 == pytest.approx(1.5e-3)
    assert (p.betas, p.weight_decay, p.clip_grad, p.drop_path) == ((0.9, 0.999), 0.05, 3, 0.1)
    assert (p.augment, p.crop_scale, p.flip) == ("crop", (0.08, 1.0), True)
    assert (c.regressor_depth, c.decoder_depth, c.alignment_weight) == (4, 4, 2)
    t = params.tokenizer
    assert (t.kind, math.prod(t.levels), t.width, t.crop_scale, t.flip) == (
        "fsq",
        8192,
        64,
        p.crop_scale,
        p.flip,
    )
    scale, *finetuning = CAE[size]
    assert params.encoder.init_values == c.init_values == scale
    rate = f.base_lr * 4096 / 256
    assert [f.epochs, pytest.approx(rate), f.layer_decay, f.drop_path] == finetuning


# RECIPES of ViTDet (arXiv 2203.16527): layer decay, drop path, global blocks, steps, milestones.
DETECTION = {
    "base": (0.7, 0.1, [2, 5, 8, 11], 184_375, [163_889, 177_546]),
    "large": (0.8, 0.4, [5, 11, 17, 23], 184_375, [163_889, 177_546]),
    "huge": (0.9, 0.5, [7, 15, 23, 31], 184_375 * 3 // 4, [163_889 * 3 // 4, 177_546 * 3 // 4]),
}


@pytest.mark.parametrize("size", DETECTION)
def test_detection_on_coco_is_vitdets(size, project, tmp_path):
    params = _over(project, tmp_path, f"imagenet_vit_{size}", f"coco_vit_{size}")
    d = params.detect
    assert (d.layer_decay, d.drop_path, d.global_blocks, d.steps, d.milestones) == DETECTION[size]
    assert d.base_lr * d.batch_size / 256 == pytest.approx(1e-4)
    assert (d.batch_size, d.weight_decay, d.betas, d.warmup_steps) == (64, 0.1, (0.9, 0.999), 250)
    assert (d.image_size, d.jitter_scale, d.flip, d.window) == (1024, (0.1, 2.0), True, 14)
    assert (d.channels, d.box_convs, d.box_dim, d.mask_convs) == (256, 4, 1024, 4)
    assert (d.rois, d.proposals, d.detections, d.max_objects) == (512, 1000, 100, 500)
    assert d.patch_size == (16 if size == "huge" else None)
    assert (params.ingest_detect.source, params.ingest_segment.source) == ("coco", "none")


@pytest.mark.parametrize(
    ("size", "taps", "width"), [("base", [3, 5, 7, 11], 768), ("large", [7, 11, 15, 23], 1024)]
)
def test_segmentation_on_ade20k_is_upernets(size, taps, width, project, tmp_path):
    s = _over(project, tmp_path, f"imagenet_vit_{size}", f"ade20k_vit_{size}").segment
    assert (s.steps, s.batch_size, s.warmup_steps, s.taps) == (160_000, 16, 1500, taps)
    assert s.base_lr * s.batch_size / 256 == pytest.approx(1e-4)
    assert (s.betas, s.weight_decay, s.layer_decay, s.drop_path) == ((0.9, 0.999), 0.05, 0.65, 0.1)
    assert (s.crop, s.short, s.stride, s.channels, s.dropout) == (512, 512, 341, width, 0.1)
    assert (s.auxiliary, s.auxiliary_channels) == (0.4, 256)
    assert (s.head, s.ratio, s.max_class_share, s.jitter, s.flip) == ("upernet", (0.5, 2.0), 0.75, True, True)


# What the methods of MAE's tables train with: absolute rate, batch, epochs, decay, mask, ratio, target.
BASELINES = {
    "beit": (1.5e-3, 2048, 800, 0.05, "block", 75, "tokens"),
    "simmim": (4e-4, 2048, 800, 0.05, "cells", 0.6, "pixels"),
    "mpp": (2e-4, 4096, 800, 0.05, "random", 0.5, "mean_colour"),
    "denoising": (2.4e-3, 4096, 800, 0.05, "random", 0.5, "pixels"),
}


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_that_masks_has_its_papers_numbers(name, project, tmp_path):
    params = _over(project, tmp_path, "imagenet_vit_base", f"{name}_vit_base")
    p = params.pretrain
    assert p.base_lr * p.batch_size / 256 == pytest.approx(BASELINES[name][0])
    assert (p.batch_size, p.epochs, p.weight_decay, p.mask, p.mask_ratio, p.target) == BASELINES[name][1:]
    assert (p.method, params.encoder.img_size, p.flip) == (name, 224, True)
    # LayerScale: as BEiT's and SimMIM's releases have it for ViT-B.
    assert params.encoder.init_values == (0.1 if name in ("beit", "simmim") else None)


def test_the_baselines_that_mask_nothing_have_their_papers_numbers(project, tmp_path):
    params = _over(project, tmp_path, "imagenet_vit_base", "mocov3_vit_base")
    p, moco = params.pretrain, params.mocov3
    assert (p.base_lr, p.batch_size, p.epochs, p.warmup_epochs) == (1.5e-4, 4096, 300, 40)
    assert (p.weight_decay, p.augment, p.crop_scale) == (0.1, "two_views", (0.08, 1.0))
    assert (moco.hidden_dim, moco.out_dim, moco.temperature, moco.momentum) == (4096, 256, 0.2, 0.99)
    assert moco.freeze_patches
    params = _over(project, tmp_path, "imagenet_vit_base", "supervised_vit_base")
    p, scratch = params.pretrain, params.scratch
    for key in ("epochs", "batch_size", "base_lr", "weight_decay", "betas", "warmup_epochs", "ema"):
        assert getattr(p, key) == getattr(scratch, key), key
    assert params.supervised.num_classes == 1000
    params = _over(project, tmp_path, "imagenet_vit_base", "igpt_small")
    p, encoder = params.pretrain, params.encoder
    assert (encoder.img_size, encoder.patch_size, encoder.embed_dim, encoder.depth) == (32, 1, 512, 24)
    assert (p.base_lr * p.batch_size / 256, p.batch_size, p.weight_decay) == (pytest.approx(3e-3), 128, 0)
    assert (p.target, params.tokenizer.kind, params.tokenizer.codes) == ("tokens", "palette", 512)
    assert p.probe.layers


@pytest.mark.parametrize("name", ["inat2017", "inat2018", "inat2019", "places205", "places365"])
def test_other_sets_are_fine_tuned_with_the_settings_of_imagenet(name, project, tmp_path):
    """The paper chose rate and epochs for each set and does not say which; the rest is table 9's (A.5)."""
    params = _over(project, tmp_path, "imagenet_vit_base", f"{name}_vit_base")
    assert params.finetune == _over(project, tmp_path, "imagenet_vit_base").finetune
    assert (params.ingest.source, params.ingest.val_fraction) == (name, 0)


def _over(project, tmp_path, *recipes):
    onto = tmp_path / "params.yaml"
    onto.write_text((project / "params.yaml").read_text())
    for name in recipes:
        recipe.apply(str(project / f"recipes/{name}.yaml"), [], onto)
    return config.load(onto)


def _sequences():
    """The commands `mae recipe` of each block of README and docs, and those of each recipe's first lines."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in blocks(ROOT, page):
            run = [words[1:] for words in commands(block.text) if words[:2] == ["mae", "recipe"]]
            if block.language == "sh" and run:
                yield pytest.param(run, id=str(block))
    for file in sorted((ROOT / "recipes").glob("*.yaml")):
        named = re.findall(r"mae recipe (recipes/\w+\.yaml)", file.read_text()) or [f"recipes/{file.name}"]
        assert named[-1] == f"recipes/{file.name}", "what its first lines say to do"
        yield pytest.param([["recipe", name] for name in named], id=file.name)


@pytest.mark.parametrize("run", [*_sequences()])
def test_what_is_applied_one_over_another_makes_a_detector_and_a_segmenter(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    os.symlink(ROOT / "recipes", "recipes")
    before = Path("params.yaml").read_text()
    for words in run:
        assert main(words) == 0
    assert Path("params.yaml").read_text() != before
    params = config.load()
    if params.input.is_auto:  # a stage measures it
        params = params.model_copy(update={"input": Input(mean=(0.5,) * 3, std=(0.2,) * 3)})
    ctx = SimpleNamespace(params=params, index=SimpleNamespace(about={"categories": [{}] * 80}))
    for stage, given in ((detect, params.ingest_detect), (segment, params.ingest_segment)):
        if given.source != "none":
            with torch.device("meta"):
                stage._build(ctx, encoder_config(params), None)


def _orders(project):
    """Of each recipe that is applied over others: what its first lines say to apply, in order."""
    for file in sorted((project / "recipes").glob("*.yaml")):
        order = re.findall(r"mae recipe recipes/(\w+)\.yaml", file.read_text())
        if len(order) > 1:
            yield order


def _keys(project, name):
    return {key for key, _ in recipe.leaves(recipe.read_recipe(project / f"recipes/{name}.yaml"))}


def test_an_encoders_recipe_sets_every_key_that_a_recipe_over_it_changes(project):
    """Applying it again leaves nothing of what was applied over it before."""
    imagenet = [f"imagenet_vit_{size}" for size in BY_SIZE]
    assert _keys(project, imagenet[0]) == _keys(project, imagenet[1]) == _keys(project, imagenet[2])
    for base, *over in _orders(project):
        there = recipe.read_recipe(project / f"recipes/{base}.yaml")
        # A method reads its own section alone; a dense task without data reads none.
        unread = set(METHODS)
        for task in ("detect", "segment"):
            if there[f"ingest_{task}"]["source"] == "none":
                unread |= {task, f"shard_{task}", f"ingest_{task}"}
        for name in over:
            left = {key for key in _keys(project, name) if key.split(".")[0] not in unread}
            assert left <= _keys(project, base), f"{base} under {name}"


def test_a_recipe_keeps_the_comments_and_changes_only_what_it_says(project, tmp_path):
    onto = tmp_path / "params.yaml"
    before = (project / "params.yaml").read_text()
    onto.write_text(before)
    changed = recipe.apply(None, ["pretrain.mask_ratio=0.5", "encoder.num_heads=null"], onto)
    assert len(changed) == 2
    after = onto.read_text()
    different = [new for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    heads, ratio = (
        "attention heads of a block",
        "share of the patches that are masked, or a whole number of them",
    )
    assert different == [f"  num_heads: null # {heads}", f"  mask_ratio: 0.5  # {ratio}"]


def test_settings_of_one_section_add_up_and_the_last_word_on_a_key_counts(project, tmp_path):
    onto = tmp_path / "params.yaml"
    onto.write_text((project / "params.yaml").read_text())
    settings = ["finetune={epochs: 9, warmup_epochs: 1}", "finetune={epochs: 8}", "finetune.smoothing=0.2"]
    recipe.apply(None, settings, onto)
    f = config.load(onto).finetune
    assert (f.epochs, f.warmup_epochs, f.smoothing) == (8, 1, 0.2)


@pytest.mark.parametrize(
    "setting",
    ["pretrain.maskratio=0.5", "pretrain=3", "pretrain.mask_ratio=x", "pretrain.epochs=[1", "nothing"],
)
def test_a_wrong_setting_is_named_and_changes_nothing(setting, project, tmp_path):
    onto = tmp_path / "params.yaml"
    onto.write_text((project / "params.yaml").read_text())
    with pytest.raises(config.InvalidParams, match=setting.partition("=")[0].split(".")[-1][:8]):
        recipe.apply(None, [setting], onto)
    assert onto.read_text() == (project / "params.yaml").read_text()


def test_a_recipe_says_only_what_differs_from_its_base(project):
    """None repeats a value that the recipe under it has already."""
    for file in sorted((project / "recipes").glob("*.yaml")):
        own = config.read_yaml(file)
        if base := own.pop("base", None):
            under = dict(recipe.leaves(recipe.read_recipe(file.parent / base)))
            assert not [key for key, value in recipe.leaves(own) if key in under and under[key] == value], (
                file
            )


def test_the_recipe_that_a_recipe_is_based_on_is_applied_first(tmp_path):
    write(tmp_path, first="{seed: 1, encoder: {depth: 1, num_heads: 1}, partial: {blocks: [1, 2]}}")
    write(tmp_path, second="{base: first.yaml, encoder: {depth: 2}, partial: {blocks: [3]}}")
    write(tmp_path, third="{base: second.yaml, seed: 3}")
    assert recipe.read_recipe(tmp_path / "third.yaml") == {
        "seed": 3,
        "encoder": {"depth": 2, "num_heads": 1},
        "partial": {"blocks": [3]},
    }


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a": "{base: b.yaml}", "b": "{base: a.yaml}"}, r"a\.yaml.*based on each other: a.* -> b.* -> a"),
        ({"a": "{base: gone.yaml}"}, r"gone\.yaml: no such file"),
        ({"a": "{base: 3}"}, r"a\.yaml: base: expected the name of a recipe, found 3"),
    ],
)
def test_a_base_that_cannot_be_is_named(files, said, tmp_path):
    write(tmp_path, **files)
    with pytest.raises(config.InvalidParams, match=said):
        recipe.read_recipe(tmp_path / "a.yaml")


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_a_key_that_an_older_file_lacks_is_added(project, tmp_path):
    onto = tmp_path / "params.yaml"
    lines = (project / "params.yaml").read_text().splitlines(keepends=True)
    onto.write_text("".join(line for line in lines if not line.startswith("  drop_path:")))
    settings = [f"{section}.drop_path=0.25" for section in ("pretrain", "partial", "finetune", "scratch")]
    recipe.apply(None, [*settings, "detect.drop_path=0.25", "segment.drop_path=0.25"], onto)
    params = config.load(onto)
    assert params.scratch.drop_path == params.detect.drop_path == 0.25


def test_a_key_that_is_added_at_its_default_is_said(project, tmp_path):
    onto = tmp_path / "params.yaml"
    text = (project / "params.yaml").read_text()
    onto.write_text(re.sub(r"^ijepa:.*\n((?:  .*\n)*)", "", text, flags=re.MULTILINE))
    settings = ["ijepa.momentum=0.996"]
    assert recipe.apply(None, settings, onto) == ["ijepa: added"]
    assert recipe.apply(None, settings, onto) == []
    onto.write_text(re.sub(r"^  momentum: 0.996.*\n", "", onto.read_text(), flags=re.MULTILINE))
    assert recipe.apply(None, settings, onto) == ["ijepa.momentum: added"]
