"""DVC runs the right stages after each change: the project's dvc.yaml with quick stand-ins for stages."""

import csv
import os
import shutil
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from mae import config
from mae.config import recipe

# Writes every output of its stage as a digest of what the stage depends on, and notes that it ran.
STAND_IN = """
import hashlib, json, pathlib, re, sys
from ruamel.yaml import YAML
read = lambda name: YAML(typ="safe").load(pathlib.Path(name))
stage, params = read("dvc.yaml")["stages"][sys.argv[1]], read("params.yaml")
def look(tree, key):  # "a.b"
    first, _, rest = key.partition(".")
    return look(tree[first], rest) if rest else tree[first]
def fill(text):  # "${pretrain.method}", as DVC reads it
    return re.sub(r"\\$\\{(.+?)\\}", lambda match: look(params, match[1]), text)
seen = hashlib.sha256()
for one in stage.get("params", []):
    sources = {"params.yaml": [one]} if isinstance(one, str) else one
    for file, keys in sources.items():
        seen.update(repr([look(read(file), fill(key)) for key in keys]).encode())
for dep in stage.get("deps", []):
    files = sorted(pathlib.Path(dep).rglob("*")) if pathlib.Path(dep).is_dir() else [pathlib.Path(dep)]
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts:
            seen.update(file.read_bytes())
for kind in ("outs", "metrics", "plots"):
    for out in stage.get(kind, []):
        path = pathlib.Path(out if isinstance(out, str) else next(iter(out)))
        path = path if path.suffix else path / "file"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"digest": 1, "x": "%s"}' % seen.hexdigest())
if sys.argv[1] == "versions":
    pathlib.Path("data/versions.json").write_text(json.dumps(read("mae/results.yaml")))
if sys.argv[1] == "pretrain":
    pathlib.Path("models/pretrain/encoder.safetensors").write_text(seen.hexdigest())
with open("ran.txt", "a") as file:
    print(sys.argv[1], file=file)
"""
ALWAYS = {"versions", "ingest", "ingest_detect", "ingest_segment", "register"}


def dvc(folder, *arguments):
    """A command of DVC in a folder, in its own process."""
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, "-m", "dvc", *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def repro(project, tmp_path_factory):
    """A function that runs `dvc repro` in a copy of the project and tells which stages ran."""
    folder = tmp_path_factory.mktemp("project")
    # Other workers write compiled files, and rename them, meanwhile.
    shutil.copytree(project / "mae", folder / "mae", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", ".dvcignore"):
        shutil.copy(project / name, folder / name)
    graph = (project / "dvc.yaml").read_text().replace("python3 -m mae", f"{sys.executable} stand_in.py")
    (folder / "dvc.yaml").write_text(graph)
    (folder / "stand_in.py").write_text(STAND_IN)

    def run():
        (folder / "ran.txt").write_text("")
        dvc(folder, "repro")
        return set((folder / "ran.txt").read_text().split())

    dvc(folder, "init", "--no-scm")
    run.folder = folder
    run.first = run()
    return run


def test_everything_runs_once_and_then_only_those_that_always_look(repro):
    assert repro.first >= {"ingest", "shard", "pretrain", "scratch", "report"}
    assert repro() == ALWAYS


def test_runtime_reruns_nothing(repro):
    recipe.apply(None, ["runtime.workers=7", "runtime.log_every=3"], repro.folder / "params.yaml")
    assert repro() == ALWAYS


def test_a_changed_line_of_code_reruns_nothing(repro):
    for file in sorted((repro.folder / "mae").rglob("*.py"))[::10]:
        file.write_text(file.read_text() + "# a comment\n")
    assert repro() == ALWAYS


EVALUATIONS = {"knn", "linear", "attentive", "partial", "finetune", "robustness", "detect", "segment"}


def test_a_raised_version_of_a_method_reruns_its_pretraining_and_what_follows(repro):
    raise_version(repro.folder, "pretrain", "mae")
    assert repro() == ALWAYS | {"pretrain", *EVALUATIONS, "report"}


def test_a_raised_version_of_another_method_reruns_nothing(repro):
    raise_version(repro.folder, "pretrain", "cae")
    assert repro() == ALWAYS


def test_a_raised_version_of_one_evaluation_reruns_it_and_the_report(repro):
    raise_version(repro.folder, "linear")
    assert repro() == ALWAYS | {"linear", "report"}


def raise_version(folder, *keys):
    yaml = YAML()
    versions = yaml.load(folder / "mae/results.yaml")
    section = versions[keys[0]] if len(keys) == 2 else versions
    section[keys[-1]] += 1
    yaml.dump(versions, folder / "mae/results.yaml")


def test_another_mask_ratio_reruns_pretraining_and_what_follows(repro):
    recipe.apply(None, ["pretrain.mask_ratio=0.5"], repro.folder / "params.yaml")
    assert repro() == ALWAYS | {"pretrain", *EVALUATIONS, "report"}


def test_a_setting_of_another_method_reruns_nothing(repro):
    recipe.apply(None, ["cae.decoder_depth=7"], repro.folder / "params.yaml")
    assert repro() == ALWAYS


def test_a_setting_of_one_judge_reruns_that_judge_and_the_report(repro):
    recipe.apply(None, ["linear.epochs=77"], repro.folder / "params.yaml")
    assert repro() == ALWAYS | {"linear", "report"}


def test_dvc_plots_show_draws_the_projects_plots(project, tmp_path):
    for name in ("dvc.yaml", "params.yaml", "reports"):
        copy = shutil.copytree if (project / name).is_dir() else shutil.copy
        copy(project / name, tmp_path / name)
    dvc(tmp_path, "init", "--no-scm")
    dvc(tmp_path, "plots", "show", "--out", "shown")
    page = (tmp_path / "shown/index.html").read_text()
    plots = config.read_yaml(project / "dvc.yaml")["plots"]
    titles = [about["title"] for plot in plots for about in plot.values()]
    assert len(titles) >= 5
    assert not [title for title in titles if title not in page]
    with (project / "reports/segment/classes.csv").open() as file:
        assert not [row["class"] for row in csv.DictReader(file) if f'"class": "{row["class"]}"' not in page]
    drawn = {path.name for path in (tmp_path / "shown/static").iterdir()}
    assert {f"workspace_reports_{task}_predictions.png" for task in ("detect", "segment")} <= drawn
