import functools
import math
import random
import re
from pathlib import Path

import pytest
import timm
import torch

from mae import config
from mae.config import recipe
from mae.config.dense import DPT_PATCHES
from mae.config.encoder import DEPTHS
from mae.models.masking import masking
from mae.models.segmentation.dpt import DPTHead
from mae.models.segmentation.intermediate_features import check_out_indices


@pytest.fixture
def values(project):
    return config.read_yaml(project / "params.yaml")


def test_the_projects_parameters_load(project):
    params = config.load(project / "params.yaml")
    assert 0 < params.pretrain.mask_ratio < 1


def test_the_parameters_of_an_older_release_load_with_the_meaning_that_they_had():
    """tests/config/params_before_versions.yaml is the file of the commit before results had versions."""
    file = Path(__file__).with_name("params_before_versions.yaml")
    older, params = config.read_yaml(file), config.load(file)
    read = dict(recipe.leaves(params.model_dump(mode="json")))
    assert {key: read.get(key, "lost") for key, _ in recipe.leaves(older)} == dict(recipe.leaves(older))
    # A key that came later has a default, and says nothing of itself in the digests that name resume folders.
    for section, value in older.items():
        if isinstance(value, dict):
            assert set(getattr(params, section).model_dump(exclude_defaults=True)) <= set(value), section


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("pretrain", "mask_ratio", "0.5", "pretrain.mask_ratio"),
        (
            "pretrain",
            "mask_ratio",
            1.0,
            "pretrain.mask_ratio: a share of the patches, above 0 and below 1, or",
        ),
        ("pretrain", "mask_ratio", 0, "pretrain.mask_ratio: a share of the patches"),
        ("pretrain", "mask_ratio", True, "pretrain.mask_ratio: a share of the patches"),
        ("pretrain", "mask_ratio", 36, "pretrain.mask_ratio 36: of an image's 36 patches some must"),
        ("pretrain", "mask_ratio", 0.99, "pretrain.mask_ratio 0.99: of an image's 36 patches some must"),
        ("pretrain", "method", "knn", "pretrain.method: 'knn' is not one of mae, cae, beit"),
        ("pretrain", "augment", "two_views", "pretrain.augment two_views makes 2 views, mae takes 1"),
        ("encoder", "img_size", 26, "encoder.img_size 26 is not a multiple of the patch size (4, 4)"),
        ("encoder", "num_heads", 3, "encoder.embed_dim 64 is not divisible by num_heads 3"),
        ("encoder", "embed_dim", 62, "encoder.embed_dim 62 must be a multiple of 4"),
        ("mae", "decoder_embed_dim", 66, "mae.decoder_embed_dim 66 must be a multiple of 4"),
        ("input", "std", [0.2, 0.0, 0.2], "input.std: [0.2, 0.0, 0.2]: expected numbers above 0"),
        ("input", "std", [58.395, 57.12, 57.375], "numbers in 0..1, shares of full brightness; divide them"),
        ("input", "mean", [123.675, 116.28, 103.53], "input.mean: [123.675, 116.28, 103.53]: expected"),
        ("input", "mean", [0.5, math.nan, 0.5], "input.mean: [0.5, nan, 0.5]: expected numbers in 0..1"),
        ("input", "mean", [-2.1, 0.5, 0.5], "input.mean: [-2.1, 0.5, 0.5]: expected numbers in 0..1"),
        ("input", "mean", 0.5, "input.mean: 0.5: expected three numbers in 0..1, of red, green and blue"),
        ("tokenizer", "levels", [64] * 5, "make 1073741824 codes; at most 65536 are possible"),
        ("pretrain", "epochs", 2.5, "pretrain.epochs"),
        ("pretrain", "learning_rate", 0.1, "pretrain.learning_rate: unknown key"),
        ("encoder", "img_size", [32], "encoder.img_size"),
        ("finetune", "accumulate", 7, "not divisible by accumulate 7"),
        ("scratch", "warmup_epochs", 1000, "must be below epochs"),
        ("partial", "warmup_epochs", 1000, "must be below epochs"),
        ("runtime", "device", "gpu", "runtime.device"),
        ("linear", "flip", "yes", "linear.flip"),
        ("detect", "global_blocks", [1, 4], "detect.global_blocks [1, 4]: the encoder's blocks are 0 to 3"),
        ("pretrain", "target", "tokens", "pretrain.target tokens needs tokenizer.kind fsq or kmeans"),
        ("pretrain", "target", "pca", "pretrain.target pca needs tokenizer.kind pca"),
        ("tokenizer", "cache", True, "found target normalised_pixels, augment crop"),
        ("segment", "taps", [0, 1, 2, 9], "segment.taps [0, 1, 2, 9]: name 4 ascending blocks that end"),
        ("segment", "taps", [0, 1, 2], "that end with the encoder's last, 3; such as [0, 1, 2, 3]"),
        ("ingest_segment", "values", [0, 255], "values [0, 255]: source demo has its own; set it to null"),
        ("segment", "stride", 25, "segment.stride 25 exceeds crop 24"),
        ("segment", "ratio", [0.0, 2.0], "segment.ratio: [0.0, 2.0]: expected 0 < low <= high"),
        ("segment", "accumulate", 16, "segment.batch_size 16 in 16 parts: the batch norms of upernet"),
        ("detect", "jitter_scale", [2.0, 1.0], "detect.jitter_scale: [2.0, 1.0]: expected 0 < low <= high"),
        ("pretrain", "betas", [1.9, 0.95], "pretrain.betas"),
        ("finetune", "betas", [0.9, 1.0], "finetune.betas"),
        ("pretrain", "crop_scale", [0.2, 1.5], "expected 0 < low <= high <= 1, shares of the image's area"),
        ("finetune", "crop_scale", [1.0, 0.08], "finetune.crop_scale: [1.0, 0.08]: expected 0 < low <= high"),
        ("finetune", "rand_augment", "augmix-m5", "finetune.rand_augment"),
        ("linear", "weight_decay", 0.1, "linear.weight_decay"),
        ("partial", "blocks", [0, 0.3], "partial.blocks"),
        ("partial", "blocks", [0, 24], "partial.blocks [0.0, 24.0]: the encoder has 4"),
        ("mae", "decoder_num_heads", 7, "mae.decoder_embed_dim 64 is not divisible by decoder_num_heads 7"),
        ("mpp", "swap", 1.0, "mpp.swap 1.0 and keep"),
        ("pretrain", "method", "igpt", "igpt predicts classes; set it to mean_colour or tokens"),
        ("detect", "milestones", [276, 225], "detect.milestones [276, 225]: steps in ascending order"),
        ("detect", "milestones", [225, 600], "below steps 600"),
        ("encoder", "patch_size", [4, 8], "encoder.patch_size [4, 8]: detection needs squares"),
    ],
)
def test_a_wrong_value_is_named(values, section, key, value, message):
    values[section][key] = value
    with pytest.raises(config.InvalidParams, match=re.escape(message)):
        config.parse(values)


WILD = [
    None,
    "",
    -1,
    0,
    2.5,
    True,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
    [],
    [1, 2],
    {},
    {"a": 1},
    10**30,
    "x",
    "\0",
]


def test_any_value_of_any_key_is_taken_or_refused_by_a_key(values):
    taken = 0
    for key, _ in recipe.leaves(values):
        *path, last = key.split(".")
        section = functools.reduce(dict.__getitem__, path, values)
        before = section[last]
        for wild in WILD:
            section[last] = wild
            params, faults = config.inspect(values)
            taken += not faults
            assert all(re.match(r"[a-z_]+(\.\w+)*", fault) for fault in faults), (key, wild)
            assert isinstance(params, config.Params)
        section[last] = before
    assert 0 < taken < len(WILD) * 100  # most of them are refused


def test_faults_of_sections_and_between_sections_are_told_at_once(values):
    values["pretrain"] |= {"epochs": 0, "epoch": 5}
    values["finetune"] |= {"accumulate": 7, "min_lr": 1.0, "warmup_epochs": 99}
    values["detect"]["global_blocks"] = [9]
    values["partial"]["blocks"] = [9]
    with pytest.raises(config.InvalidParams, match="7 to correct") as refused:
        config.parse(values)
    for key in (
        "pretrain.epochs",
        "pretrain.epoch: unknown key; .*did you mean epochs",
        "finetune.batch_size",
    ):
        assert re.search(f"^  {key}", str(refused.value), re.MULTILINE), key


def test_a_head_that_does_not_take_the_encoders_patches_is_named(values):
    values["encoder"]["patch_size"] = 6
    assert config.parse(values).segment.head == "upernet"
    values["segment"]["head"] = "dpt"
    with pytest.raises(config.InvalidParams, match=r"segment\.head dpt needs .* not of \[6, 6\]"):
        config.parse(values)


@pytest.mark.parametrize("depth", [4, 6, 12])
def test_taps_are_taken_where_the_segmenter_takes_them(values, depth):
    values["encoder"]["depth"] = depth
    draw = random.Random(depth)
    likely = range(depth // 2, depth)
    verdicts = set()
    for _ in range(300):
        values["segment"]["taps"] = taps = sorted(draw.choices(likely, k=draw.choice((3, 4, 4, 5))))
        if draw.random() < 0.2:
            draw.shuffle(taps)
        takes = _takes(config.parse, values), _takes(check_out_indices, taps, depth)
        assert takes[0] == takes[1], taps
        verdicts.add(takes[0])
    assert verdicts == {True, False}


def test_patches_are_taken_where_dpt_takes_them():
    assert {side for side in range(1, 65) if _takes(DPTHead.multiple, (side, side))} == {*DPT_PATCHES}


def _takes(check, *given):
    try:
        check(*given)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("section", ["shard", "shard_detect", "shard_segment"])
def test_rejected_images_are_bounded_by_a_number_or_a_share(values, section):
    for bound in (0, 7, 0.01):
        values[section]["max_rejected"] = bound
        assert getattr(config.parse(values), section).max_rejected == bound
    for bound in (-1, 0.0, 1.0, 1.5, float("nan"), True, "1%", None):
        values[section]["max_rejected"] = bound
        with pytest.raises(
            config.InvalidParams, match=rf"1 to correct\n  {section}.max_rejected: .*expected a nu"
        ):
            config.parse(values)


def test_blocks_are_not_asked_for_where_there_is_no_such_data(values):
    values["detect"]["global_blocks"] = [40]
    values["ingest_detect"]["source"] = "none"
    assert config.parse(values).detect.global_blocks == [40]


def test_patches_are_timms(values):
    values["ingest_detect"]["source"] = "none"  # it needs square ones
    for name, given in (("vit_huge_patch14_224", {}), ("vit_base_patch16_224", {"patch_size": [8, 4]})):
        values["encoder"] |= {"name": name, "img_size": [224, 112], "patch_size": None, **given}
        with torch.device("meta"):
            vit = timm.create_model(name, img_size=(224, 112), **given)
        assert config.parse(values).encoder.grid == vit.patch_embed.grid_size


def test_depths_are_timms(values):
    for size, depth in DEPTHS.items():
        name = next(name for name in timm.list_models("vit_*") if name.startswith(f"vit_{size}_patch"))
        with torch.device("meta"):
            assert len(timm.create_model(name).blocks) == depth
        values["encoder"] |= {"name": name, "depth": None}
        values["ingest_detect"]["source"] = values["ingest_segment"]["source"] = "none"
        assert config.parse(values).encoder.blocks == depth


@pytest.mark.parametrize("mask", ["random", "block", "grid", "cells"])
@pytest.mark.parametrize("ratio", [0.01, 0.03, 0.5, 0.88, 0.9, 0.92, 0.97, 0.98, 2, 35, 36])
def test_a_mask_is_refused_where_it_could_not_be_drawn(values, mask, ratio):
    values["pretrain"] |= {"mask": mask, "mask_ratio": ratio}
    try:
        masking(mask, (6, 6), ratio)
    except ValueError:
        with pytest.raises(config.InvalidParams, match=f"pretrain.mask_ratio {ratio}: of an image's"):
            config.parse(values)
    else:
        assert config.parse(values).encoder.grid == (6, 6)


def test_views_that_would_be_alike_are_refused(values):
    values["pretrain"] |= {"method": "mocov3", "augment": "fixed_crop"}
    with pytest.raises(config.InvalidParams, match="mocov3 compares views of an image, which"):
        config.parse(values)
    values["pretrain"]["augment"] = "crop"
    assert config.parse(values).pretrain.method == "mocov3"


def test_a_missing_key_is_named(values):
    del values["mae"]["decoder_depth"]
    del values["seed"]
    with pytest.raises(config.InvalidParams, match=r"(?s)mae\.decoder_depth: missing.*seed: missing"):
        config.parse(values)


def test_a_parameter_cannot_be_changed(project):
    params = config.load(project / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        params.pretrain.epochs = 3


def test_numbers_are_read_as_dvc_reads_them(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("a: 1e-4\nb: 0o17\nc: on\n")
    assert config.read_yaml(file) == {"a": 1e-4, "b": 15, "c": "on"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not YAML"), ("- 1", "expected sections"), ("a: 1\na: 2", "not YAML"), ("\x00", "not YAML")],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(config.InvalidParams, match=message) as refused:
        config.read_yaml(file)
    assert "suppress" not in str(refused.value)
    with pytest.raises(config.InvalidParams, match="no such file"):
        config.read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(config.InvalidParams, match=r"cannot be read \(Is a directory\)"):
        config.read_yaml(tmp_path)


def test_a_digest_changes_with_any_value(project):
    params = config.load(project / "params.yaml")
    changed = params.pretrain.model_copy(update={"mask_ratio": 0.5})
    assert config.digest(params.pretrain, 0) == config.digest(params.pretrain, 0)
    assert (
        len({config.digest(params.pretrain, 0), config.digest(changed, 0), config.digest(params.pretrain, 1)})
        == 3
    )
