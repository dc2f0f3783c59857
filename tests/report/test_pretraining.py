"""The report describes the work of each method, and the images of its pictures."""

import pytest
from report.fixed_results import METRICS, rendered, section

from mae import config


@pytest.fixture
def report(project, tmp_path, monkeypatch):
    """The report of the demo's params, with these metrics of pretraining or of the tokenizer."""
    monkeypatch.chdir(tmp_path)
    params = config.load(project / "params.yaml")

    def render(pretrain=(), tokenizer=()):
        changed = {"pretrain": dict(pretrain), "tokenizer": dict(tokenizer)}
        return rendered(params, **{stage: METRICS[stage] | more for stage, more in changed.items()})

    return render


def test_masks_are_reported_in_patches_and_only_where_there_are_some(report):
    assert "for 28 epochs, 27 of 36 patches masked (random).\n" in report({"masked": 27, "patches": 36})
    assert "for 28 epochs.\n" in report()
    said = "27 of 36 patches masked (random), the latents of 4 target blocks of 6 masked patches predicted.\n"
    assert said in report({"masked": 27, "patches": 36, "target_blocks": 4, "target_block_patches": 6})


@pytest.mark.parametrize(
    ("split", "said"),
    [("val", "of val, not used in {}"), ("train", "of train, used in {} too, since there is no val")],
)
def test_pictures_and_errors_are_said_to_be_of_the_split_that_they_are_of(report, split, said):
    text = report({"pictures_split": split}, {"split": split})
    assert f"Images {said.format('training')}: as predicted." in section(text, "Pretraining")
    assert f"60 images {said.format('fitting')}; the error" in section(text, "Tokenizer")


def test_components_take_the_place_of_codes(report, project):
    assert "| kind | squared error | codes | in use | perplexity |" in section(report(), "Tokenizer")
    plain = {name: value for name, value in METRICS["tokenizer"].items() if not name.startswith("code")}
    plain |= {"kind": "pca", "components": 3, "explained_variance": 0.9}
    text = rendered(config.load(project / "params.yaml"), tokenizer=plain)
    assert "| principal components of patches | 0.2500 | 3 | 90.0 % |" in section(text, "Tokenizer")


def test_the_probe_on_each_block_names_the_best_one(report):
    text = section(report({"layers_top1": [0.1, 0.3, 0.2]}), "Pretraining")
    assert "best 30.0 % after block 2 of 3; 20.0 % after the last." in text
