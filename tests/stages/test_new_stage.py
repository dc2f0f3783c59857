"""A stage joins by what CONTRIBUTING says, and nothing else: its example is added to a copy, and runs."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from stages.tiny import write_tiny_params

LISTED = "train\tcat\t9\t0\t0\t\ta.jpg\ntrain\tdog\t9\t0\t0\t\tb.jpg\nval\tdog\t9\t0\t0\t\tc.jpg\n"


@pytest.fixture
def copy(tmp_path, project, migrated_store):
    """A copy of the project with tiny parameters and a listing, and a function that runs Python in it."""
    for folder in ("mae", "tests"):
        shutil.copytree(project / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "pyproject.toml"):
        shutil.copy(project / name, tmp_path / name)
    write_tiny_params(tmp_path, project, migrated_store)
    (tmp_path / "data/ingest").mkdir(parents=True)
    (tmp_path / "data/ingest/listing.tsv").write_text(LISTED)
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    environment["PYTHONPATH"] = str(tmp_path)

    def python(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return tmp_path, python


def put(file, before, added):
    text = file.read_text()
    assert text.count(before) == 1, file
    file.write_text(text.replace(before, added + before))


def test_the_example_of_contributing_joins_by_a_row_a_file_a_section_and_an_entry(project, copy):
    folder, python = copy
    section = (project / "CONTRIBUTING.md").read_text().partition("## Add a stage")[2].partition("\n## ")[0]
    row, stage, settings = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    values, entry = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    put(folder / "mae/stage_table.py", '    Stage(\n        "register",\n', f"    {row.strip()},\n")
    (folder / "mae/stages/census.py").write_text(stage)
    put(folder / "mae/config/sections.py", "class Report(Section):", settings + "\n\n")
    put(folder / "mae/config/__init__.py", "    Augmented,\n    Demo,\n", "    Census,\n")
    put(folder / "mae/config/__init__.py", "    report: Report\n", "    census: Census\n")
    put(folder / "params.yaml", "\nreport:\n", "\n" + values)
    put(folder / "dvc.yaml", "  register:", entry + "\n")

    assert "count the images of each class" in python("-m", "mae", "--help")
    python("-m", "mae", "versions")
    assert json.loads((folder / "data/versions.json").read_text())["census"] == 1
    python("-m", "mae", "census")
    assert json.loads((folder / "reports/census/metrics.json").read_text()) == {"cat": 1, "dog": 2}
    assert json.loads((folder / "reports/census/run.json").read_text())["params"]["census"] == {"column": 1}
    assert json.loads((folder / "work/census/outcome.json").read_text())["state"] == "finished"
    checks = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_pipeline.py")
    assert re.search(r"[1-9]\d* passed", checks)
