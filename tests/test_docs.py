"""The README tells the truth about the files and the commands."""

import re
import subprocess

import pytest

from mae import __main__ as command


@pytest.fixture(scope="module")
def listed(project):
    section = (project / "README.md").read_text().partition("## Files")[2]
    lines = section.partition("```\n")[2].partition("```")[0].splitlines()
    return [line.split()[0] for line in lines]


def test_the_tree_lists_every_module_and_nothing_that_is_not_there(project, listed):
    files = (file for package in ("mae", "pipelines") for file in (project / package).rglob("*.py"))
    modules = {str(file.relative_to(project)) for file in files}
    assert modules == {name for name in listed if re.match(r"(mae|pipelines)/.*\.py", name)}
    assert all((project / name).exists() for name in listed)
    assert len(listed) == len(set(listed))


def test_every_folder_of_the_top_level_is_listed(project, listed):
    if not (project / ".git").exists():
        pytest.skip("no git checkout to ask")
    command = ["git", "ls-files", "--full-name"]
    tracked = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout
    folders = {line.split("/")[0] + "/" for line in tracked.splitlines() if "/" in line}
    assert folders - {".ci/", ".dvc/", "mae/"} <= set(listed)


def test_every_command_of_the_readme_and_the_page_of_operations_exists(project):
    text = (project / "README.md").read_text() + (project / "docs/operate.md").read_text()
    blocks = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    known = {"recipe", "export", "import", "sync", "rollback", "champion", "drift", *command.STAGES}
    used = set(re.findall(r"(?:^|\s)mae ([a-z]+)", blocks))
    assert used
    assert used <= known
    makefile = (project / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)", blocks, re.MULTILINE)) <= targets
    assert all((project / name).is_file() for name in re.findall(r"recipes/\w+\.yaml", text))
