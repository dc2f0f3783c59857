"""A method joins by what CONTRIBUTING says, and nothing else: its example is added to a copy, and obeys."""

import os
import re
import shutil
import subprocess
import sys


def put(file, before, added):
    text = file.read_text()
    assert text.count(before) == 1, file
    file.write_text(text.replace(before, added + before))


def test_the_example_of_contributing_joins_by_a_file_a_line_and_a_section(project, tmp_path):
    shutil.copytree(project / "mae", tmp_path / "mae", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    shutil.copytree(project / "tests/methods", tmp_path / "tests/methods")
    for name in ("params.yaml", "pyproject.toml"):
        shutil.copy(project / name, tmp_path / name)
    section = (project / "CONTRIBUTING.md").read_text().partition("## Add a method")[2].partition("\n## ")[0]
    method, settings = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    plain = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[0]
    (tmp_path / "mae/methods/rotnet.py").write_text(method)
    put(tmp_path / "mae/methods/__init__.py", "METHODS:", "from mae.methods.rotnet import RotNet\n\n")
    put(tmp_path / "mae/methods/__init__.py", '    "mae": MAE,\n', '    "rotnet": RotNet,\n')
    put(tmp_path / "mae/config/methods.py", "class Methods(Section):", settings + "\n\n")
    put(tmp_path / "mae/config/methods.py", "    mae: MAE\n", "    rotnet: RotNet\n")
    put(tmp_path / "params.yaml", "\nmae:\n", "\n" + plain)
    built = (
        "from pathlib import Path; from mae import config; from mae.stages.pretrain import build_method; "
        "values = config.read_yaml(Path('params.yaml')); values['pretrain']['method'] = 'rotnet'; "
        "values['rotnet']['turns'] = 2; assert build_method(config.parse(values)).turns == 2"
    )
    contract = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/methods/test_contract.py",
        "-k",
        "rotnet",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for command in (["-c", built], contract):
        ended = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"[1-9]\d* passed", ended.stdout)
