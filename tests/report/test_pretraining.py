"""The report says of each method what was done, and of which images its pictures are."""

import pytest

from mae import config
from mae.report.pretraining import pretraining_section, pretraining_summary
from mae.report.tokenizer import tokenizer_section

MEASURED = {"parameters": 2_000_000, "samples": 60, "steps": 6, "first_loss": 1.0, "loss": 0.5}
SHOWN = {"pictures_note": "as predicted", "pictures_split": "val"}


def test_masks_are_told_of_in_patches_and_only_where_there_are_some(project):
    params = config.load(project / "params.yaml")
    told = pretraining_summary(params, MEASURED | {"masked": 27, "patches": 36})
    assert told.endswith("for 28 epochs, 27 of 36 patches masked (random).")
    assert pretraining_summary(params, MEASURED).endswith("for 28 epochs.")


@pytest.mark.parametrize(
    ("split", "told"), [("val", "of val, none {} on"), ("train", "of train, {} on, for there is no val")]
)
def test_pictures_and_errors_are_said_to_be_of_the_split_that_they_are_of(split, told):
    section = "\n".join(pretraining_section(MEASURED | SHOWN | {"pictures_split": split}))
    assert f"Images {told.format('trained')}: as predicted." in section
    found = {"kind": "pca", "error": 0.1, "components": 3, "explained_variance": 0.9}
    section = "\n".join(tokenizer_section(found | MEASURED | SHOWN | {"split": split}))
    assert f"judged on 60 images {told.format('fitted')}; the error" in section


def test_the_probe_on_each_block_names_the_best_one():
    section = "\n".join(pretraining_section(MEASURED | SHOWN | {"layers_top1": [0.1, 0.3, 0.2]}))
    assert "best 30.0 % after block 2 of 3; 20.0 % after the last." in section
