"""dvc.yaml, the stages and the command line say the same."""

import ast
import importlib
from pathlib import Path

import pytest

from mae import __main__ as command
from mae import config
from mae.methods import METHODS
from mae.stages import MODULES

TRAININGS = command.PARALLEL
NO_RESULT = {"runtime", "flows", "retrain"}  # sections that say where, when and whether
THE_METHODS = "${pretrain.method}"  # DVC puts in the chosen one: another's section changes nothing
# They decide when and where a stage runs and what is remembered of it, not what it computes.
NOT_RESULTS = ("mae/config", "mae/yaml_files.py", "mae/distributed.py", "mae/tracking", "mae/__init__.py")
# Plumbing of stages: paths, the run, pictures. A training of days is not repeated for a change in them.
PLUMBING = (
    *(f"mae/stages/{name}.py" for name in ("__init__", "files", "plots", "progress", "session", "tracked")),
    *(f"mae/data/{name}.py" for name in ("__init__", "files", "index", "split")),
    *(f"mae/{package}/__init__.py" for package in ("engine", "methods", "models", "tasks")),
    "mae/confidence.py",
    "mae/interchange",
)


@pytest.fixture(scope="module")
def stages(project):
    return config.read_yaml(project / "dvc.yaml")["stages"]


def test_every_dvc_stage_is_a_stage_function(stages, project):
    assert tuple(stages) == command.STAGES == tuple(MODULES)
    for name, module in MODULES.items():
        assert callable(getattr(importlib.import_module(f"mae.stages.{module}"), name))


def test_every_stage_is_run_by_its_name(stages):
    assert {name: stage["cmd"] for name, stage in stages.items()} == {
        n: f"python3 -m mae {n}" for n in stages
    }


def test_no_stage_depends_on_what_changes_no_result(stages):
    assert set(config.Params.model_fields) > NO_RESULT
    for name, stage in stages.items():
        assert not [p for p in stage["params"] if p.split(".")[0] in NO_RESULT], name


def test_every_params_key_of_a_stage_exists(stages):
    named = {p.split(".")[0] for stage in stages.values() for p in stage["params"] if p != THE_METHODS}
    assert named | set(METHODS) == set(config.Params.model_fields) - NO_RESULT


def test_a_stage_reads_the_sections_that_dvc_watches(stages):
    for name in stages:
        module = importlib.import_module(f"mae.stages.{MODULES[name]}")
        method = {THE_METHODS} if name == "pretrain" else set()
        assert {"seed", *module.SECTIONS[name], *method} == set(stages[name]["params"]), name


def test_dvc_keeps_what_each_stage_leaves_so_that_the_same_work_is_not_done_again(stages):
    """DVC keeps no run of a stage that has an output outside its cache, metrics and plots apart."""
    for name in stages.keys() - {"report"}:  # which takes a second, and belongs to git
        loose = [out for out in stages[name]["outs"] if isinstance(out, dict)]
        loose = [out for out in loose if not next(iter(out.values())).get("cache", True)]
        assert not loose or stages[name].get("always_changed"), name


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_depends_on_all_modules_that_it_imports(name, stages, project):
    deps = [dep for dep in stages[name]["deps"] if dep.startswith("mae/")]
    imported = _closure(project, f"mae.stages.{MODULES[name]}")
    # Pretraining is watched by a probe from mae/tasks, which changes nothing of it.
    others = (*NOT_RESULTS, *PLUMBING, *(["mae/tasks"] if name == "pretrain" else []))
    missing = [file for file in imported if not _covered(file, (*deps, *others))]
    assert not missing
    assert not [dep for dep in deps if not any(_covered(file, (dep,)) for file in imported)], "not imported"


def _covered(file: str, by: tuple[str, ...]) -> bool:
    return any(file == dep or file.startswith(dep.rstrip("/") + "/") for dep in by)


def _closure(project: Path, module: str) -> list[str]:
    """Files of mae/ that importing `module` imports, in functions too."""
    seen: dict[str, Path] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        file = _file(project, name)
        if file is None or name in seen:
            continue
        seen[name] = file
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                queue += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                queue += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return sorted(str(file.relative_to(project)) for file in seen.values())


def _file(project: Path, name: str) -> Path | None:
    base = project / name.replace(".", "/")
    options = [base.with_suffix(".py"), base / "__init__.py"]
    return next((file for file in options if name.startswith("mae") and file.is_file()), None)
