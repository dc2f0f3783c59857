"""The stage `tokenizer` on a tiny demo: what each kind leaves, and what pretraining makes of it."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from engine.processes import run_ranks
from stages.tiny import TINY, run, write_tiny_params
from torch.testing import assert_close

from mae import config
from mae.config import recipe
from mae.data.decode import decode
from mae.data.shards.index import Index
from mae.data.transforms.image import Normalize
from mae.data.transforms.pretraining import augmentation
from mae.stages.pretraining.fitted_tokenizer import cached_tokens, read_tokenizer

FILE = "models/tokenizer/tokenizer.safetensors"
SMALL = "tokenizer={epochs: 2, batch_size: 20, warmup_epochs: 0.5}"
KINDS = {
    "fsq": ["tokenizer={kind: fsq, levels: [5, 5], width: 8}", "pretrain.target=tokens"],
    "kmeans": ["tokenizer={kind: kmeans, codes: 16}", "pretrain.target=tokens"],
    "pca": ["tokenizer={kind: pca, components: 10}", "pretrain.target=pca"],
    "palette": ["tokenizer={kind: palette, codes: 16}", "pretrain={method: igpt, target: tokens}"],
}
CACHED = ["tokenizer.cache=true", "pretrain={augment: none, flip: false}"]


@pytest.fixture(scope="module")
def sharded(project, tmp_path_factory, migrated_store):
    folder = tmp_path_factory.mktemp("tokenizer")
    run(folder, write_tiny_params(folder, project, migrated_store), "ingest", "shard")
    return folder


def given(folder, project, *settings):
    (folder / "params.yaml").write_text((project / "params.yaml").read_text())
    recipe.apply(None, [*TINY, SMALL, *settings], folder / "params.yaml")
    return config.load(folder / "params.yaml")


def metrics(folder, stage):
    return json.loads((folder / "reports" / stage / "metrics.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_fitted_evaluated_drawn_and_predicted(kind, sharded, project):
    params = given(sharded, project, *KINDS[kind])
    run(sharded, params, "tokenizer", "pretrain")
    found = metrics(sharded, "tokenizer")
    assert found["kind"] == kind
    assert found["samples"] == 20
    assert 0 < found["error"] < 5
    if kind == "pca":
        assert 0.5 < found["explained_variance"] < 1
    else:
        assert 1 <= found["code_perplexity"] <= found["codes_used"] <= found["codes"]
    assert {path.name for path in (sharded / "reports/tokenizer/pictures").iterdir()} == {
        "curve.png",
        "rebuilt.png",
    }
    assert metrics(sharded, "pretrain")["loss"] > 0
    before = (sharded / "models/tokenizer/tokenizer.safetensors").read_bytes()
    run(sharded, params, "tokenizer")
    assert (sharded / "models/tokenizer/tokenizer.safetensors").read_bytes() == before


def as_rank(folder):
    """One of the ranks that fit the tokenizer of a folder."""
    run(folder, config.load(folder / "params.yaml"), "tokenizer")


def copied(folder, to):
    """The folder's data, run store and parameters at another place."""
    shutil.copytree(folder / "data", to / "data")
    for name in ("mlflow.db", "params.yaml"):
        shutil.copy(folder / name, to)
    return to


@pytest.mark.filterwarnings("ignore:Grad strides do not match")  # of 1x1 convolutions; it only costs a copy
def test_two_ranks_fit_the_tokenizer_of_one_process(sharded, project, tmp_path):
    alone = {}
    for kind in ("fsq", "kmeans"):
        params = given(sharded, project, *KINDS[kind])
        copied(sharded, tmp_path / kind)
        run(sharded, params, "tokenizer")
        alone[kind] = read_tokenizer(sharded / FILE).state_dict()
        run_ranks(as_rank, tmp_path / kind)
    together = {kind: read_tokenizer(tmp_path / kind / FILE).state_dict() for kind in alone}
    assert_close(together["kmeans"], alone["kmeans"], rtol=0, atol=0)
    # Adam makes whole steps of gradients that are nothing but rounding: few weights have such.
    apart, size = (
        sum(part(together["fsq"][name], value) for name, value in alone["fsq"].items())
        for part in (lambda ours, theirs: (ours - theirs).abs().sum(), lambda _, theirs: theirs.abs().sum())
    )
    assert apart / size < 1e-5


def test_k_means_of_accumulated_steps_is_that_of_whole_ones(sharded, project):
    found = []
    for accumulate in (1, 2):
        params = given(sharded, project, *KINDS["kmeans"], f"tokenizer.accumulate={accumulate}")
        run(sharded, params, "tokenizer")
        found.append((sharded / FILE).read_bytes())
    assert found[0] == found[1]


def test_kept_tokens_are_not_used_once_images_are_seen_in_other_views(sharded, project, monkeypatch):
    params = given(sharded, project, *KINDS["kmeans"], *CACHED)
    run(sharded, params, "tokenizer")
    monkeypatch.chdir(sharded)
    index = Index.open("data/shards")
    assert cached_tokens(params, index) is not None
    assert cached_tokens(given(sharded, project, *KINDS["kmeans"]), index) is None


def test_kept_tokens_are_those_of_the_view_that_pretraining_has_and_train_the_same(sharded, project):
    weights = []
    for cache in (CACHED, CACHED[1:]):
        params = given(sharded, project, *KINDS["kmeans"], *cache)
        run(sharded, params, "tokenizer", "pretrain")
        kept = sharded / "models/tokenizer/tokens/train-000000.npy"
        assert kept.is_file() == (cache is CACHED)
        if cache is CACHED:
            codes = np.load(kept)
        weights.append((sharded / "models/pretrain/encoder.safetensors").read_bytes())
    assert weights[0] == weights[1]
    split = Index.open(sharded / "data/shards").split("train")
    view, _ = augmentation("none", 32, flip=False)
    images = torch.stack([view(decode(split.read(row))) for row in range(4)])
    normalize = Normalize(params.input.mean, params.input.std)
    tokenizer = read_tokenizer(sharded / "models/tokenizer/tokenizer.safetensors")
    np.testing.assert_array_equal(tokenizer.encode(normalize(images)).numpy(), codes[:4])


def test_tokens_kept_of_other_shards_are_refused(sharded, project):
    params = given(sharded, project, *KINDS["kmeans"], *CACHED)
    run(sharded, params, "tokenizer")
    index = sharded / "data/shards/index.json"
    before = index.read_text()
    index.write_text(before + "\n")
    try:
        with pytest.raises(ValueError, match=r"tokens of other shards than .*; run `dvc repro tokenizer`"):
            run(sharded, params, "pretrain")
    finally:
        index.write_text(before)


def test_without_a_kind_nothing_heavy_is_imported(sharded, project):
    given(sharded, project)
    heavy = "{'torch', 'mlflow', 'timm'} & set(sys.modules)"
    code = f"import sys; from mae.__main__ import main; main(['tokenizer']); assert not {heavy}, {heavy}"
    subprocess.run([sys.executable, "-c", code], cwd=sharded, check=True)
    assert "none" in metrics(sharded, "tokenizer")["skipped"]
    assert not (sharded / "models/tokenizer/tokenizer.safetensors").exists()
