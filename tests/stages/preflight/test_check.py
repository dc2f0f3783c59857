"""`mae check`: every wrong setting is refused by its key, before a file is written or an image is read."""

import json
import re
import shutil
import socket
import sqlite3

import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_model_name

from mae import config
from mae.__main__ import EXIT_BAD_PARAMS, main
from mae.config import recipe
from mae.methods import METHODS
from mae.models import vit
from mae.stages import run_stage
from mae.stages.context.data_sizes import Sizes, faults_of
from mae.stages.preflight.checks import preflight
from mae.stages.pretraining.initial_weights import method_config


@pytest.fixture
def repo(project, tmp_path, monkeypatch):
    """A project without data, the working directory."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(project / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def check(repo, capsys):
    """A function from settings to the exit status of `mae check` and what it said."""

    def checked(*settings):
        before = sorted(repo.rglob("*"))
        status = main(["check", *(word for setting in settings for word in ("--set", setting))])
        said = capsys.readouterr()
        assert sorted(repo.rglob("*")) == before
        assert "Traceback" not in said.err
        return status, said.err

    return checked


WRONG = """
seed=-1 | seed | greater than or equal to 0
seed=4294967296 | seed | less than
runtime.device=cuda:0 | runtime.device | not one of auto, cpu, cuda; did you mean cuda
runtime.workers=5000 | runtime.workers | processes only cost memory; set it to
runtime.work_dir="" | runtime.work_dir | expected text
runtime.work_dir=params.yaml/work | runtime.work_dir | params.yaml is a file; name a folder
runtime.tracking_uri=mlflow.db | runtime.tracking_uri | expected sqlite:///mlflow.db
runtime.tracking_uri='http://bob:hush@host ' | runtime.tracking_uri | has a password or token
runtime.tracking_uri=http:///runs | runtime.tracking_uri | names no host
runtime.tracking_uri=http://localhost:99999 | runtime.tracking_uri | Port out of range
runtime.tracking_uri='sqlite://' | runtime.tracking_uri | names no file
runtime.tracking_uri=sqlite:///params.yaml/mlflow.db | runtime.tracking_uri | is a file; correct the path
runtime.tracking_uri=sqlite:///dvc.yaml | runtime.tracking_uri | dvc.yaml cannot be opened
runtime.experiment="" | runtime.experiment | expected text
runtime.checkpoint_every=0 | runtime.checkpoint_every | greater than 0
demo.size=8 | demo.size | greater than or equal to 16
demo.detect.rows=9 | demo.detect.rows | choose 1 to 3
ingest.source=folders | ingest.source | did you mean folder
ingest={source: folder, root: /no/such/place} | ingest.root | no such folder; name the folder of the images
ingest={source: folder, root: params.yaml} | ingest.root | is a file; name the folder
ingest={source: imagenet_tar, root: ., val_fraction: 0.1} | ingest | val_fraction must be 0
ingest.root="" | ingest.root | expected text
ingest.val_fraction=1.0 | ingest.val_fraction | less than 1
shard.quality=0 | shard.quality | greater than or equal to 1
shard.max_side=0 | shard.max_side | greater than 0
encoder.name=vit_tinny_patch16_224 | encoder.name | no plain ViT named .*; did you mean vit_tiny_patch16_224
encoder.name=vit_small_patch14_reg4_dinov2 | encoder.name | register tokens
encoder={embed_dim: null, num_heads: 7} | encoder.num_heads 7 | timm cannot build
encoder.num_heads=3 | encoder.embed_dim 64 | not divisible by num_heads 3
encoder.img_size=100000 | encoder.img_size | whole, 1 to 8192
encoder={img_size: 4096, patch_size: 4} | encoder.img_size | at most 65536 are possible
encoder.img_size=[24, 24, 24] | encoder.img_size | a side in pixels, or .height, width
encoder.mlp_ratio=100000 | encoder.mlp_ratio | less than or equal to 64
encoder.mlp_ratio=0.001 | encoder.mlp_ratio | is a width of 0; 4 is usual
encoder.depth=100000 | encoder.depth | less than or equal to 128
pretrain.method=maee | pretrain.method | not one of mae, .*did you mean mae
pretrain.init=weights.safetensors | pretrain.init | no such file
pretrain.init=params.yaml | pretrain.init | params.yaml
pretrain.mask_ratio=1 | pretrain.mask_ratio | above 0 and below 1, or a whole number of them, 2 or more
pretrain.mask_ratio=1.0 | pretrain.mask_ratio | above 0 and below 1
pretrain.mask_ratio=0 | pretrain.mask_ratio | above 0 and below 1
pretrain.mask=blocks | pretrain.mask | did you mean block
pretrain.batch_size=7000 | pretrain.batch_size | above the 6000 images .*; lower it to 6000
pretrain.base_lr=150 | pretrain.base_lr | AdamW learns nothing above 1; lower base_lr
pretrain.weight_decay=1000 | pretrain.weight_decay | removes whole weights
pretrain.min_lr=0.5 | pretrain.min_lr | above the highest lr, .* = 0.003.*; lower min_lr
pretrain.probe.every_epochs=1.0e-9 | pretrain.probe.every_epochs | use 0 for never, or 0.05
pretrain.epoch=5 | pretrain.epoch | did you mean epochs
finetune.epoch=5 | finetune.epoch | did you mean epochs
mae.decoder_num_heads=7 | mae.decoder_embed_dim | not divisible by decoder_num_heads 7
mocov3.temperature=0 | mocov3.temperature | greater than or equal to 0.005
pretrain.target=pca; tokenizer={kind: pca, components: 400} | tokenizer.components | choose 1 to 48
pretrain.target=tokens; tokenizer={kind: kmeans, codes: 9999}; demo.train=99 | tokenizer.codes | lower it
tokenizer={kind: pca, batch_size: 9000} | tokenizer.batch_size | above the 6000 images
pretrain.method=supervised; supervised.num_classes=99 | supervised.num_classes | the images have 10 classes
knn.k=10000 | knn.k | above the 6000 images for training; lower it
knn.temperature=1.0e-12 | knn.temperature | greater than or equal to 0.005
knn.temperature=1000 | knn.temperature | less than or equal to 10
linear.momentum=1.0 | linear.momentum | less than 1
linear.labels_per_class=1000 | linear.labels_per_class | no class has more than 600 images .* null for all
partial.blocks=[1, 1] | partial.blocks | names one twice
partial.blocks=[0, 24] | partial.blocks | the encoder has 4
finetune.rand_augment=rand-m99 | finetune.rand_augment | m magnitude to 10
finetune.rand_augment=rand-n9-magnitude3 | finetune.rand_augment | expected timm's string
finetune.rand_augment=rand-tpretty | finetune.rand_augment | expected timm's string
finetune.batch_size=256 | finetune.batch_size | above the 200 images
finetune.min_lr=1 | finetune.min_lr | lower min_lr
scratch.labels_per_class=601 | scratch.labels_per_class | no class has more than 600
robustness.sets=[imagenet_c] | robustness.root | no such folder; unpack imagenet_c there
robustness.sets=[imagenet_v2] | robustness.sets.0 | not one of imagenet_c
ingest_detect={source: coco, root: /no/coco} | ingest_detect.root | or set ingest_detect.source to none
detect.global_blocks=[1, 1, 3] | detect.global_blocks | names one twice
detect.window=100000 | detect.window | less than or equal to 512
detect.batch_size=500 | detect.batch_size | above the 400 images
detect.jitter_scale=[0.001, 1000] | detect.jitter_scale | from 1/16 to 16
detect.scratch.base_lr=1000 | detect.scratch.base_lr | AdamW learns nothing
ingest_segment={source: ade20k, root: /no/ade} | ingest_segment.root | no such folder
segment.taps=[0, 3, 3, 3] | segment.taps | such as .0, 1, 2, 3
segment.short=20 | segment.short | below crop 24
registry.encoder=mae/encoder | registry.encoder | MLflow registers no such name
registry.encoder="mae:encoder" | registry.encoder | MLflow registers no such name
registry.classifier="" | registry.classifier | expected text
registry.classifier=mae-encoder | registry.classifier | also the name of encoder: give each
flows.stages.pretrian={retries: 3, retry_delay: 60.0, timeout: null} | flows.stages.pretrian | mean pretrain
flows.stages.pretrain={retris: 3} | flows.stages.pretrain.retris | did you mean retries
flows.devices=[0, 0] | flows.devices | names one twice
flows.notify=slack | flows.notify | such as slack-webhook/team
flows.mlflow_pages=127.0.0.1:5000 | flows.mlflow_pages | such as http://
pretrain.flip=1 | pretrain.flip | expected true or false
pretrain.epochs=1e3 | pretrain.epochs | expected a whole number
retrain.min_new=0 | retrain.min_new | greater than 0
"""
CASES = [tuple(part.strip() for part in line.split(" | ")) for line in WRONG.strip().splitlines()]


@pytest.mark.parametrize(("setting", "key", "remedy"), CASES, ids=[case[0] for case in CASES])
def test_a_wrong_setting_is_refused_by_its_key_with_a_remedy(check, setting, key, remedy):
    status, said = check(*setting.split("; "))
    assert status == EXIT_BAD_PARAMS
    assert re.search(f"{re.escape(key)}.*{remedy}", said), said


def test_there_are_more_than_60_of_them():
    assert len(CASES) > 60


def test_the_projects_settings_are_ready(check):
    assert check() == (0, "")


READY = {
    "mae": ("pretrain.target=pca", "tokenizer.kind=pca"),
    "cae": ("pretrain={target: tokens, mask: block, mask_ratio: 18}", "tokenizer.kind=fsq"),
    "beit": ("pretrain={target: tokens, mask: block}", "tokenizer.kind=kmeans"),
    "simmim": ("pretrain={target: pixels, mask: cells}",),
    "mpp": ("pretrain.target=mean_colour",),
    "denoising": ("pretrain.target=hog",),
    "mocov3": ("pretrain.augment=two_views",),
    "igpt": ("pretrain.target=tokens", "tokenizer.kind=palette"),
    "ijepa": ("pretrain.mask=multiblock",),
    "supervised": (),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_built_as_its_settings_say(check, method):
    assert check(f"pretrain.method={method}", *READY[method]) == (0, "")


def test_all_faults_are_told_at_once_those_of_the_machine_among_them(check):
    wrong = ("pretrain.epochs=0", "encoder.name=vit_x", "runtime.workers=5000", "registry.encoder=a/b")
    wrong += ("ingest={source: folder, root: /no/place}", "segment.taps=[1, 1, 2, 3]", "finetune.min_lr=1")
    status, said = check(*wrong, "linear.labels_per_class=100000")
    assert (status, said.count("\n")) == (EXIT_BAD_PARAMS, 8)  # no sizes are known of /no/place
    for setting in wrong:
        key = setting.split("=")[0] + (".root" if "{" in setting else "")
        assert key in said, said


@pytest.mark.parametrize(
    "setting",
    [
        "pretrain.mask_ratio=0.999",
        "pretrain.target=tokens",
        "pretrain.augment=two_views",
        "partial.blocks=[5]",
        "detect.global_blocks=[7]",
        "segment.taps=[0]",
    ],
)
def test_a_fault_is_told_once_also_where_the_model_cannot_be_built_because_of_it(check, setting):
    status, said = check(setting)
    assert (status, said.count("\n")) == (EXIT_BAD_PARAMS, 2), said
    assert said.splitlines()[1].strip().startswith(setting.split("=")[0])


def test_a_store_is_opened_and_not_made(check, repo):
    (repo / "folder.db").mkdir()
    assert "is a folder" in check("runtime.tracking_uri=sqlite:///folder.db")[1]
    sqlite3.connect(repo / "good.db").execute("create table t (a)")
    assert check("runtime.tracking_uri=sqlite:///good.db")[0] == 0


def test_a_server_that_is_away_is_told_and_stops_no_run(check, repo, caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        status, said = check(f"runtime.tracking_uri={address}")
        assert status == EXIT_BAD_PARAMS
        assert "does not answer" in said
        recipe.apply(None, [f"runtime.tracking_uri={address}"], repo / "params.yaml")
        run_stage("versions", config.load())
    assert f"{address}: does not answer" in caplog.text
    assert (repo / "data/versions.json").is_file()


def test_the_first_stage_refuses_what_a_later_one_would(repo):
    recipe.apply(None, ["encoder.name=vit_tiny_patch8_224"], repo / "params.yaml")
    with pytest.raises(config.InvalidParams, match=r"encoder\.name vit_tiny_patch8_224"):
        run_stage("versions", config.load())
    assert json.loads((repo / "work/versions/outcome.json").read_text())["state"] == "rejected"
    assert not (repo / "data").exists()


def test_models_that_could_be_built_are_built_again_only_for_other_settings(repo, monkeypatch):
    built = []
    monkeypatch.setattr("mae.stages.preflight.models.unbuildable", lambda params: built.append(params) or [])
    run_stage("versions", config.load())
    # A file of weights may have changed.
    for setting, times in (("seed=0", 1), ("pretrain.epochs=9", 2), ("pretrain.init=a.pt", 3), ("seed=0", 4)):
        recipe.apply(None, [setting], repo / "params.yaml")
        run_stage("versions", config.load())
        assert len(built) == times


def test_a_stage_of_the_projects_own_dvc_yaml_may_have_settings_of_its_own(check, repo):
    own = 'flows.stages={"clean": {"retries": 3, "retry_delay": 60.0, "timeout": null}}'
    assert "flows.stages.clean: 'clean' is not one of versions" in check(own)[1]
    (repo / "dvc.yaml").write_text("stages: {clean: {cmd: 'true'}}")
    assert check(own)[0] == 0


def test_weights_are_compared_with_the_settings(check, repo, project):
    from mae import interchange

    params = config.load(project / "params.yaml")
    about = method_config(params)["encoder"]
    state = vit.build(**interchange.encoder_arguments(about)).state_dict()
    interchange.save_encoder(repo / "start.safetensors", state, about)
    assert check("pretrain.init=start.safetensors") == (0, "")
    said = check("pretrain.init=start.safetensors", "encoder.num_heads=4")[1]
    assert "encoder.num_heads is 4, there 2" in said


@pytest.mark.parametrize(
    "name",
    ["mae-encoder", "a.b_c", "a b", "a/b", "a:b", "..a", ".", "a.", "Größe", "a//b", "a\\b", "%41", "-"],
)
def test_names_are_those_that_mlflow_takes(name, project):
    values = config.read_yaml(project / "params.yaml")
    values["registry"]["encoder"] = name
    try:
        _validate_model_name(name)
    except MlflowException:
        with pytest.raises(config.InvalidParams, match=r"registry\.encoder: .*MLflow registers no such name"):
            config.parse(values)
    else:
        assert config.parse(values).registry.encoder == name


def test_sizes_are_checked_where_there_are_labels_and_where_there_are_none(project):
    params = config.load(project / "params.yaml")
    assert list(faults_of("finetune", params, Sizes(400, (20,) * 20))) == []
    (fault,) = faults_of("finetune", params, Sizes(380, (19,) * 20))
    assert fault.startswith("finetune.labels_per_class 20: no class has more than 19 images")
    assert list(faults_of("finetune", params, Sizes(400))) == []  # it is skipped there
    assert list(faults_of("tokenizer", params, Sizes(3))) == []  # kind none fits nothing


WILD = {
    "runtime.tracking_uri": "x", "encoder.name": "x", "encoder.num_heads": None, "encoder.embed_dim": None,
    "encoder.img_size": 8, "encoder.depth": 64, "mae.decoder_depth": 64, "mae.decoder_num_heads": 64,
    "detect.patch_size": 8192, "detect.global_blocks": [], "detect.channels": 1, "detect.box_convs": 128,
    "detect.anchor_scale": 65536, "segment.channels": 1, "segment.crop": 16, "partial.blocks": [0],
    "pretrain.init": "/", "robustness.root": "x" * 999, "ingest.root": "/" * 999, "runtime.work_dir": "/",
}  # fmt: skip


@pytest.mark.parametrize("key", WILD)
def test_what_the_types_take_never_crashes_a_check(repo, key):
    values = config.read_yaml(repo / "params.yaml")
    section, name = key.split(".")
    values[section][name] = WILD[key]
    params, _ = config.inspect(values)
    assert all(isinstance(fault, str) for fault in preflight(params))
