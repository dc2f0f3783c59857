"""Everything that computes has a golden: each leaf of results.yaml, and each row of the product's tables."""

import importlib
from collections.abc import Iterable

import pytest
from golden.frame import VALUES, Case, Shelf, read_versions

from mae.data.listing.manifest import SOURCES
from mae.data.transforms.pretraining import AUGMENTATIONS
from mae.evaluation.classification.imagenet_variants import SETS
from mae.evaluation.classification.protocols import PROTOCOLS
from mae.methods import METHODS
from mae.methods.mocov3 import LOSSES
from mae.models.masking import MASKINGS
from mae.models.segmentation.segmenter import HEADS
from mae.models.targets import TARGETS
from mae.models.tokenizer import KINDS
from mae.serving.answers import ANSWERS

NAMES = ("classification", "data", "dense", "loading", "parts", "pretraining", "reporting", "tokenizers")
TOPICS = {name: importlib.import_module(f"golden.test_{name}").CASES for name in NAMES}
CASES: list[Case] = [case for cases in TOPICS.values() for case in cases]
TABLES: dict[str, Iterable[str]] = {
    "method": METHODS,
    "target": TARGETS,
    "mask": MASKINGS,
    "augment": AUGMENTATIONS,
    "loss": LOSSES,
    "kind": KINDS,
    "protocol": PROTOCOLS,
    "head": HEADS,
    "set": SETS,
    "source": SOURCES,
    "answer": ANSWERS,
}


@pytest.mark.parametrize("leaf", read_versions())
def test_every_version_has_a_case_that_names_it(leaf):
    assert any(leaf in case.keys for case in CASES)


@pytest.mark.parametrize("row", [f"{table}.{name}" for table, rows in TABLES.items() for name in rows])
def test_every_row_of_a_table_has_a_case_that_runs_it(row):
    assert any(row in case.covers for case in CASES)


@pytest.mark.parametrize("topic", TOPICS)
def test_nothing_is_kept_of_a_case_that_is_gone(topic):
    assert set(Shelf(VALUES / f"{topic}.json").read()) == {case.name for case in TOPICS[topic]}


def test_no_values_are_kept_of_a_topic_that_is_gone():
    assert {file.stem for file in VALUES.iterdir()} == set(TOPICS)
