import re

import pytest
import timm
import torch

from mae import config
from mae.config.sections import DEPTHS


@pytest.fixture
def values(project):
    return config.read_yaml(project / "params.yaml")


def test_the_projects_parameters_load(project):
    params = config.load(project / "params.yaml")
    assert 0 < params.pretrain.mask_ratio < 1


@pytest.mark.parametrize(
    ("section", "key", "value", "told"),
    [
        ("pretrain", "mask_ratio", "0.5", "pretrain.mask_ratio"),
        ("pretrain", "mask_ratio", 1.0, "pretrain.mask_ratio"),
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
        ("segment", "taps", [0, 1, 2, 9], "segment.taps [0, 1, 2, 9]: the encoder's blocks are 0 to 3"),
    ],
)
def test_a_wrong_value_is_named(values, section, key, value, told):
    values[section][key] = value
    with pytest.raises(config.InvalidParams, match=re.escape(told)):
        config.parse(values)


def test_blocks_are_not_asked_for_where_there_is_no_such_data(values):
    values["detect"]["global_blocks"] = [40]
    values["ingest_detect"]["source"] = "none"
    assert config.parse(values).detect.global_blocks == [40]


def test_depths_are_timms(values):
    for size, depth in DEPTHS.items():
        name = next(name for name in timm.list_models("vit_*") if name.startswith(f"vit_{size}_patch"))
        with torch.device("meta"):
            assert len(timm.create_model(name).blocks) == depth
        values["encoder"] |= {"name": name, "depth": None}
        assert config.parse(values).encoder.blocks == depth


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


@pytest.mark.parametrize(("text", "told"), [("a: [1", "not YAML"), ("- 1", "expected sections")])
def test_a_broken_file_is_named(tmp_path, text, told):
    file = tmp_path / "p.yaml"
    file.write_text(text)
    with pytest.raises(config.InvalidParams, match=told):
        config.read_yaml(file)
    with pytest.raises(config.InvalidParams, match="no such file"):
        config.read_yaml(tmp_path / "absent.yaml")


def test_a_digest_changes_with_any_value(project):
    params = config.load(project / "params.yaml")
    changed = params.pretrain.model_copy(update={"mask_ratio": 0.5})
    assert config.digest(params.pretrain, 0) == config.digest(params.pretrain, 0)
    assert (
        len({config.digest(params.pretrain, 0), config.digest(changed, 0), config.digest(params.pretrain, 1)})
        == 3
    )
