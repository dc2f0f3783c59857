"""The flows know the pipeline from DVC alone."""

import pytest

from mae.stage_table import PARALLEL, STAGES
from pipelines.graph import recorded_results, upstreams

CHAIN = {"a": ("true", []), "b": ("true", ["a"]), "c": ("true", ["b"]), "alone": ("true", [])}


def test_every_stage_of_the_project_comes_after_what_it_depends_on(project):
    graph = upstreams(project)
    assert set(graph) == set(STAGES)
    assert set(graph["pretrain"]) == {"versions", "shard", "tokenizer"}
    assert set(PARALLEL) <= set(graph)
    order = list(graph)
    assert all(order.index(up) < order.index(name) for name, ups in graph.items() for up in ups)


def test_a_stage_added_to_dvc_yaml_is_in_the_graph_at_once(repo):
    assert "new" not in upstreams(repo(CHAIN))
    assert upstreams(repo(CHAIN | {"new": ("true", ["c"])}))["new"] == ("c",)


def test_a_target_brings_what_it_depends_on_and_nothing_else(repo):
    assert list(upstreams(repo(CHAIN), ["b"])) == ["a", "b"]


def test_a_target_that_is_no_stage_is_named_with_those_that_are(repo):
    with pytest.raises(ValueError, match=r"nonsense. is not one of a, alone, b, c"):
        upstreams(repo(CHAIN), ["a", "nonsense"])


def test_a_frozen_stage_runs_without_what_it_depends_on(repo, dvc):
    folder = repo(CHAIN)
    dvc(folder, "freeze", "b")
    assert upstreams(folder, ["c"]) == {"b": (), "c": ("b",)}


def test_a_stage_of_a_folder_below_has_the_name_that_dvc_takes_at_the_root(repo):
    folder = repo(CHAIN)
    (folder / "below").mkdir()
    (folder / "below/dvc.yaml").write_text("stages: {deep: {cmd: 'true', deps: [../c]}}")
    assert upstreams(folder)["below/dvc.yaml:deep"] == ("c",)
    assert recorded_results(folder, "below/dvc.yaml:deep") is not None


def test_recorded_results_differ_once_a_stage_has_run_or_was_restored(repo, dvc):
    folder = repo(CHAIN)
    never = recorded_results(folder, "b")
    dvc(folder, "repro", "b")
    run = recorded_results(folder, "b")
    (folder / "b").unlink()
    removed = recorded_results(folder, "b")
    dvc(folder, "repro", "b")
    restored = recorded_results(folder, "b")
    assert len({repr(one) for one in (never, run, removed, restored)}) == 4
    dvc(folder, "repro", "b")
    assert recorded_results(folder, "b") == restored
