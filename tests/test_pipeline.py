"""dvc.yaml, the stages and the command line say the same."""

import importlib
from pathlib import Path
from typing import get_args

import pytest

import mae.stages
from mae import config, results
from mae.config import Segment, Tokenizer
from mae.methods import METHODS
from mae.stage_table import STAGES

NO_RESULT = {"runtime", "flows", "retrain"}  # sections that say where, when and whether
THE_METHODS = "${pretrain.method}"  # DVC puts in the chosen one: another's section changes nothing
VERSIONS = "data/versions.json"


@pytest.fixture(scope="module")
def stages(project):
    return config.read_yaml(project / "dvc.yaml")["stages"]


def test_every_dvc_stage_is_a_stage_function(stages, project):
    assert tuple(stages) == tuple(STAGES)
    for name in STAGES:
        assert callable(getattr(importlib.import_module(f"mae.stages.{name}"), name))


def test_every_file_of_stages_is_a_stage():
    files = {file.stem for file in Path(mae.stages.__file__).parent.glob("*.py")}
    assert files - {"__init__"} == set(STAGES)


def test_every_stage_is_run_by_its_name(stages):
    assert {name: stage["cmd"] for name, stage in stages.items()} == {
        n: f"python3 -m mae {n}" for n in stages
    }


def test_no_stage_depends_on_what_changes_no_result(stages):
    assert set(config.Params.model_fields) > NO_RESULT
    for name, stage in stages.items():
        assert not [p for p in sections_of(stage) if p.split(".")[0] in NO_RESULT], name


def test_every_params_key_of_a_stage_exists(stages):
    named = {p.split(".")[0] for stage in stages.values() for p in sections_of(stage) if p != THE_METHODS}
    assert named | set(METHODS) == set(config.Params.model_fields) - NO_RESULT


def test_a_stage_reads_the_sections_that_dvc_watches(stages):
    for name in stages:
        seed = set() if name == "versions" else {"seed"}
        assert {*seed, *STAGES[name].sections} == set(sections_of(stages[name])), name


def test_dvc_keeps_what_each_stage_leaves_so_that_the_same_work_is_not_done_again(stages):
    """DVC keeps no run of a stage that has an output outside its cache, metrics and plots apart."""
    for name in stages.keys() - {"report"}:  # which takes a second, and belongs to git
        loose = [out for out in stages[name]["outs"] if isinstance(out, dict)]
        loose = [out for out in loose if not next(iter(out.values())).get("cache", True)]
        assert not loose or stages[name].get("always_changed"), name


def test_no_stage_names_a_file_of_code(stages, project):
    for name, stage in stages.items():
        code = [
            dep
            for dep in stage.get("deps", [])
            if dep.startswith(("mae", "pipelines")) or dep.endswith(".py")
        ]
        assert not code, name
        # What a stage reads was made by another, so that data alone say what is stale.
        made = [
            out if isinstance(out, str) else next(iter(out))
            for one in stages.values()
            for out in outs_of(one)
        ]
        assert all(any(Path(dep).is_relative_to(out) for out in made) for dep in stage.get("deps", [])), name


def test_every_stage_depends_on_its_version_and_on_no_other(stages):
    assert set(results.versions()) == set(stages) - {"versions"}
    for name, stage in stages.items():
        setting = STAGES[name].part
        part = name if setting is None else f"{name}.${{{setting}}}"
        expected = [] if name == "versions" else [{VERSIONS: [part]}]
        assert [param for param in stage.get("params", []) if isinstance(param, dict)] == expected, name


def test_every_part_of_a_stage_has_a_version():
    versions = results.versions()
    assert set(versions["pretrain"]) == set(METHODS)
    kinds = {"tokenizer": Tokenizer.model_fields["kind"], "segment": Segment.model_fields["head"]}
    for stage, field in kinds.items():
        assert set(versions[stage]) == set(get_args(field.annotation)), stage
    with_parts = {name for name, stage in STAGES.items() if stage.part is not None}
    assert {stage for stage, number in versions.items() if isinstance(number, dict)} == with_parts


def outs_of(stage):
    return [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]


def sections_of(stage):
    return [param for param in stage.get("params", []) if isinstance(param, str)]
