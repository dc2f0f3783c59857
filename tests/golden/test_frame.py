"""The rules of the goldens hold: what is compared how, what `make golden` writes and what it refuses."""

import json
from dataclasses import replace

import pytest
from golden.frame import Case, Refusal, Shelf, same

VERSIONS = {"pretrain.mae": 1, "pretrain.cae": 3, "knn": 2}
VALUES = {"loss": [1.0, 0.5], "steps": 6, "order": "a1b2", "rows": [3, 1, 2]}


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path / "toy.json")


@pytest.fixture
def case():
    return Case("toy", ("pretrain.mae",), lambda bench: VALUES)


def test_a_new_case_is_written_and_then_holds(shelf, case):
    assert "no golden is kept" in shelf.faults(case, VALUES, VERSIONS)[0]
    assert shelf.write(case, VALUES, VERSIONS) == "new"
    assert shelf.faults(case, VALUES, VERSIONS) == []
    assert json.loads(shelf.file.read_text())["toy"]["versions"] == {"pretrain.mae": 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [("loss", [1.0, 0.52]), ("steps", 7), ("order", "ffff"), ("rows", [1, 3, 2]), ("loss", [1.0])],
)
def test_another_value_is_named_with_old_new_and_what_to_do(shelf, case, name, value):
    shelf.write(case, VALUES, VERSIONS)
    wrong, advice = shelf.faults(case, VALUES | {name: value}, VERSIONS)
    assert wrong.startswith(f"toy: {name}: was {json.dumps(VALUES[name])}, is {json.dumps(value)}")
    assert "raise pretrain.mae in mae/results.yaml and run `make golden`" in advice


def test_a_value_that_is_gone_or_new_is_named(shelf, case):
    shelf.write(case, VALUES, VERSIONS)
    without = {name: value for name, value in VALUES.items() if name != "steps"}
    assert "toy: steps: was 6, is no longer computed" in shelf.faults(case, without, VERSIONS)
    assert "toy: more: is 1, none is kept" in shelf.faults(case, VALUES | {"more": 1}, VERSIONS)


def test_floats_are_compared_within_the_cases_tolerance_and_whole_numbers_exactly(shelf, case):
    shelf.write(case, VALUES, VERSIONS)
    near = VALUES | {"loss": [1.0 + 1e-5, 0.5]}
    assert shelf.faults(case, near, VERSIONS) == []
    assert shelf.faults(replace(case, tolerance=1e-6), near, VERSIONS)
    assert shelf.faults(case, VALUES | {"rows": [3, 1, 3]}, VERSIONS)


@pytest.mark.parametrize(
    ("kept", "found", "equal"),
    [
        ([[1.0, "a"], [2]], [[1.0 + 1e-5, "a"], [2]], True),
        ([[1.0, "a"], [2]], [[1.0, "b"], [2]], False),
        ([[1.0, "a"], [2]], [[1.1, "a"], [2]], False),
        ([1, 2], [1, 3], False),
        ([], [], True),
        ([float("nan"), 1.0], [float("nan"), 1.0], True),
        ("1", 1, False),
        (1.0, 1.1, False),
    ],
)
def test_nested_lists_are_compared_part_by_part(kept, found, equal):
    assert same(kept, found, 1e-3) == equal


def test_values_kept_for_other_versions_are_no_goldens_until_they_are_written(shelf, case):
    shelf.write(case, VALUES, VERSIONS)
    raised = VERSIONS | {"pretrain.mae": 2}
    (fault,) = shelf.faults(case, VALUES, raised)
    assert "pretrain.mae 1 -> 2" in fault
    assert "run `make golden`" in fault
    assert shelf.write(case, VALUES, raised) == "rewritten"
    assert shelf.faults(case, VALUES, raised) == []


def test_other_values_under_the_same_version_are_refused_and_nothing_is_written(shelf, case):
    shelf.write(case, VALUES, VERSIONS)
    before = shelf.file.read_bytes()
    with pytest.raises(Refusal, match=r"toy: steps: was 6, is 7(.|\n)*First raise pretrain\.mae"):
        shelf.write(case, VALUES | {"steps": 7}, VERSIONS)
    assert shelf.file.read_bytes() == before


def test_the_version_of_another_part_does_not_help(shelf, case):
    shelf.write(case, VALUES, VERSIONS)
    with pytest.raises(Refusal):
        shelf.write(case, VALUES | {"steps": 7}, VERSIONS | {"pretrain.cae": 4, "knn": 3})


def test_other_values_under_a_raised_version_replace_the_kept_ones(shelf, case):
    shelf.write(case, VALUES, VERSIONS)
    raised = VERSIONS | {"pretrain.mae": 2}
    assert shelf.write(case, VALUES | {"steps": 7}, raised) == "rewritten"
    assert shelf.read()["toy"].values["steps"] == 7


def test_a_lowered_version_is_refused(shelf, case):
    shelf.write(case, VALUES, VERSIONS)
    with pytest.raises(Refusal, match="is lower than"):
        shelf.write(case, VALUES, VERSIONS | {"pretrain.mae": 0})


def test_a_case_may_give_more_under_the_same_version_and_never_less(shelf, case):
    shelf.write(case, VALUES, VERSIONS)
    assert shelf.write(case, VALUES | {"more": 1}, VERSIONS) == "rewritten"
    assert shelf.read()["toy"].values["more"] == 1
    with pytest.raises(Refusal, match="toy: more: was 1, is no longer computed"):
        shelf.write(case, VALUES, VERSIONS)


def test_equal_values_under_the_same_version_leave_the_file_as_it_is(shelf, case):
    shelf.write(case, VALUES, VERSIONS)
    before = shelf.file.read_bytes()
    assert shelf.write(case, VALUES | {"loss": [1.0 + 1e-6, 0.5]}, VERSIONS) == "kept"
    assert shelf.file.read_bytes() == before


def test_a_section_stands_for_all_of_its_leaves(shelf, case):
    shared = replace(case, keys=("pretrain", "knn"))
    shelf.write(shared, VALUES, VERSIONS)
    assert shelf.read()["toy"].versions == VERSIONS
    assert shelf.write(shared, VALUES | {"steps": 7}, VERSIONS | {"pretrain.cae": 4}) == "rewritten"


def test_a_part_that_joins_a_section_changes_nothing(shelf, case):
    shared = replace(case, keys=("pretrain",))
    shelf.write(shared, VALUES, VERSIONS)
    joined = VERSIONS | {"pretrain.new": 1}
    assert shelf.faults(shared, VALUES, joined) == []
    with pytest.raises(Refusal):
        shelf.write(shared, VALUES | {"steps": 7}, joined)


def test_a_key_that_results_yaml_does_not_have_is_an_error(shelf, case):
    with pytest.raises(KeyError, match=r"toy: mae/results\.yaml has no pretrain\.vae"):
        shelf.write(replace(case, keys=("pretrain.vae",)), VALUES, VERSIONS)
