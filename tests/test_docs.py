"""README and docs keep to the truth: commands run, links lead somewhere, keys and figures exist."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from code_blocks import Block, blocks, commands, module_parses, parses
from dvc.cli.parser import get_main_parser
from stages.tiny import OURS_TO_SET, run, write_tiny_params

from mae import __main__ as mae
from mae import config
from mae.config import recipe
from mae.stage_table import STAGES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [block for page in PAGES for block in blocks(ROOT, page)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
RUN = [
    block
    for block in BLOCKS
    if block.language in ("sh", "python") and not block.needs and not block.tested_by
]
# Programs of others, whose arguments are not checked here.
OTHERS = {".", "cd", "cp", "docker", "git", "mkdir", "mlflow", "pip", "prefect", "rm", "rsync", "sbatch"}
NO_DENSE_DATA = ("ingest_detect.source=none", "ingest_segment.source=none")


@pytest.fixture(scope="module")
def finished(project, tmp_path_factory, migrated_store):
    """A small project whose stages all ran, with its results committed to DVC and git."""
    folder = tmp_path_factory.mktemp("finished")
    for name in (
        "dvc.yaml",
        "Makefile",
        "sweeps.yaml",
        ".dvcignore",
        ".gitignore",
        "requirements.lock",
        "pyproject.toml",
    ):
        shutil.copy(project / name, folder / name)
    shutil.copytree(project / "recipes", folder / "recipes")
    params = write_tiny_params(folder, project, migrated_store, *NO_DENSE_DATA)
    run(folder, params, *STAGES)
    (folder / ".venv").mkdir()
    for entry in Path(sys.prefix).iterdir():
        (folder / ".venv" / entry.name).symlink_to(entry)
    (folder / ".venv/.ready").unlink(missing_ok=True)
    (folder / ".venv/.ready").touch()  # newer than the lock file: `make` has nothing to install
    shell(folder, "git init --quiet . && dvc init --quiet && dvc commit --quiet --force && git add .")
    shell(folder, "git -c user.name=a -c user.email=a@b commit --quiet --message 'The results'")
    return folder


def shell(folder: Path, text: str, program: tuple[str, ...] = ("bash", "-euo", "pipefail", "-c")) -> None:
    """Run a text in a folder, with the programs of this environment first; fail with what it said."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS_TO_SET}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([*program, text], cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, f"{text}\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_each_code_block_is_run_or_says_what_it_needs(block: Block, project):
    assert block.language in ("sh", "python", "yaml", "text")
    if block.tested_by:
        tests = "".join(file.read_text() for file in (project / "tests").rglob("test_*.py"))
        assert f"def {block.tested_by}(" in tests


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in RUN}))
def test_the_blocks_of_a_page_run_one_after_another(page, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "project", symlinks=True)
    for block in RUN:
        if block.page == page:
            shell(folder, block.text, *([(sys.executable, "-c")] if block.language == "python" else []))


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_each_command_exists_and_takes_its_arguments(block: Block, project):
    for words in commands(block.text):
        program, arguments = words[0], words[1:]
        if program == "mae":
            assert parses(mae.main, arguments), words
        elif program == "make":
            check_make(project, arguments)
        elif program == "dvc":
            check_dvc(project, arguments)
        elif program == "python" and arguments[0] == "-m":
            assert module_parses(arguments[1], arguments[2:]), words
        elif program == "python":
            assert arguments[0] == "-c", words
        else:
            assert program in OTHERS, words


def check_make(project: Path, arguments: list[str]) -> None:
    makefile = (project / "Makefile").read_text()
    for argument in arguments:
        variable, given, _ = argument.partition("=")
        found = rf"\$\({variable}\)" if given else rf"^{argument}:"
        assert re.search(found, makefile, re.MULTILINE), argument


def check_dvc(project: Path, arguments: list[str]) -> None:
    parsed = get_main_parser().parse_args(arguments)
    stages = config.read_yaml(project / "dvc.yaml")["stages"]
    if parsed.cmd in ("repro", "commit", "status"):
        assert set(parsed.targets) <= set(stages)
    for setting in getattr(parsed, "set_param", None) or ():
        recipe.merge(config.read_yaml(project / "params.yaml"), None, recipe.parsed(setting))


@pytest.mark.parametrize("block", [block for block in SHELL if "mae recipe" in block.text], ids=str)
def test_each_recipe_and_setting_fits_the_parameters(block: Block, project, tmp_path, monkeypatch):
    shutil.copy(project / "params.yaml", tmp_path)
    shutil.copytree(project / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    for words in commands(block.text):
        if words[:2] == ["mae", "recipe"]:
            assert mae.main(words[1:]) == 0, words


def test_every_setting_has_a_meaning(project, monkeypatch):
    monkeypatch.syspath_prepend(project / "docs")
    import settings_table

    groups = settings_table.groups(project / "params.yaml")
    settings = [setting for group in groups for setting in group.settings]
    listed = {name for name, _ in recipe.leaves(config.read_yaml(project / "params.yaml"))}
    assert listed <= {setting.key for setting in settings} | {"flows.stages"}
    assert not [setting.key for setting in settings if not setting.meaning]
    assert {group.name for group in groups} - {""} == set(config.Params.model_fields) - {"seed"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_and_files_in_backticks_exist(page, project):
    params = config.read_yaml(project / "params.yaml")
    for code in re.findall(r"`([^`\n]+)`", without_blocks(page.read_text())):
        if match := re.fullmatch(r"(\w+)((?:\.\w+)+)(?:(?:=|: ).*)?", code):
            name = match[1] + match[2]
            if isinstance(params.get(match[1]), dict) and not is_file_or_module(project, name):
                recipe.merge(config.read_yaml(project / "params.yaml"), None, setting(code, name, params))
        if re.fullmatch(r"(mae|docs|recipes|pipelines|tests|benchmarks)/[\w./-]*", code):
            assert (project / code).exists(), f"{page.name}: `{code}`"
        if re.fullmatch(r"(data|models|reports)/[\w./-]+", code):
            assert is_an_output(project, code), f"{page.name}: `{code}`"


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def is_file_or_module(project: Path, name: str) -> bool:
    """Return whether it is a file (`pretrain.csv`) or a module (`mae.config`): `mae` is a section, too."""
    module = project / "/".join(name.split(".")[:2])
    return (
        Path(name).suffix in (".yaml", ".json", ".py")
        or module.is_dir()
        or module.with_suffix(".py").is_file()
    )


def setting(code: str, name: str, params: dict) -> dict:
    """{key: value} of `key=value`, or of `key` with the value that it has."""
    if "=" in code:
        return recipe.parsed(code)
    value = params
    for part in name.split("."):
        assert part in value, code
        value = value[part]
    return {} if isinstance(value, dict) else {name: value}


def is_an_output(project: Path, path: str) -> bool:
    """Return whether a stage of dvc.yaml writes it, a folder around it or one within it, or git has it."""
    stages = config.read_yaml(project / "dvc.yaml")["stages"].values()
    outs = [out for stage in stages for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    names = [out if isinstance(out, str) else next(iter(out)) for out in outs]
    path = path.rstrip("/")
    inside = any(path == name or path.startswith(f"{name}/") or name.startswith(f"{path}/") for name in names)
    return inside or (project / path).exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not re.match(r"https?:", target):
            assert (page.parent / target).exists(), target


def test_readme_is_short(project):
    text = (project / "README.md").read_bytes()
    assert len(text) <= 16 * 1024
    assert text.count(b"\n") <= 220


def test_the_figures_of_readme_are_those_of_the_reports(project):
    rows = {
        cells[0].split(",")[0]: [float(number) for number in re.findall(r"[+-]?\d+\.\d", " ".join(cells[2:]))]
        for cells in tables(project / "README.md")
        if len(cells) == 5
    }
    names = {"kNN": "knn", "linear probe": "linear", "attentive probe": "attentive"}
    for row, stage in names.items():
        found = read(project, stage)
        assert rows[row] == percent(found["random_top1"], found["top1"], *gain(found)), row
    for row, stage, figure in (("detection", "detect", "box_AP"), ("segmentation", "segment", "mIoU")):
        found = read(project, stage)
        assert rows[row] == percent(found[f"scratch_{figure}"], found[figure], *gain(found)), row
    tuned, scratch = read(project, "finetune")["top1"], read(project, "scratch")["top1"]
    assert rows["fine-tuning"][:3] == percent(scratch, tuned, tuned - scratch)
    low, high = rows["fine-tuning"][3:]
    assert f"({low:+.1f} to {high:+.1f})" == re.search(
        r"against [\d.]+ % from scratch with .*?95 % (.*?)\)", (project / "reports/report.md").read_text()
    )[1].join("()")


def tables(page: Path) -> list[list[str]]:
    """The rows of all tables of a page, as their cells."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def read(project: Path, stage: str) -> dict[str, float]:
    return json.loads((project / "reports" / stage / "metrics.json").read_text())


def gain(found: dict[str, float]) -> tuple[float, float, float]:
    return found["gain"], found["gain_low"], found["gain_high"]


def percent(*shares: float) -> list[float]:
    return [round(100 * share + 1e-9, 1) for share in shares]


@pytest.mark.parametrize("page", ["README.md", "docs/methods.md"])
def test_every_method_is_in_the_tables(page, project):
    text = " ".join(cell for row in tables(project / page) for cell in row)
    methods = type(config.load(project / "params.yaml")).__mro__[1].model_fields
    assert not [name for name in methods if f"`{name}`" not in text]


def test_every_stage_is_in_the_quick_start(project):
    text = " ".join(row[0] for row in tables(project / "docs/quickstart.md"))
    assert set(re.findall(r"`(\w+)`", text)) == set(STAGES)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(project, tmp_path):
    command = [
        "sphinx.cmd.build",
        "-b",
        "html",
        "-E",
        "-n",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        str(tmp_path / "doctrees"),
    ]
    ended = subprocess.run(
        [sys.executable, "-m", *command, "docs", str(tmp_path / "site")],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "site/settings.html").read_text()
    assert "pretrain.mask_ratio" in page
