"""`mae recipe`: lists, takes names, and undoes."""

import shutil

import pytest

from mae.__main__ import EXIT_BAD_PARAMS, main


@pytest.fixture
def there(project, tmp_path, monkeypatch):
    """The parameters of a project with recipes, in the working directory."""
    shutil.copy(project / "params.yaml", tmp_path)
    shutil.copytree(project / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "params.yaml"


def test_alone_it_lists_each_recipe_with_a_line_and_those_that_are_applied(there, capsys):
    assert main(["recipe", "laptop_vit_tiny", "--set", "ingest.root=images"]) == 0
    assert "ingest.root" in capsys.readouterr().out
    assert main(["recipe"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(file.stem for file in there.parent.glob("recipes/*"))
    assert [line.split()[0] for line in lines if "[applied]" in line] == ["laptop_vit_tiny"]
    assert all(len(line.split(maxsplit=1)[1]) > 20 for line in lines)


def test_changes_are_undone_one_by_one_and_never_over_a_persons_own(there, capsys):
    texts = [there.read_text()]
    for command in (["laptop_vit_tiny"], ["--set", "seed=7"], ["recipes/imagenet_vit_base.yaml"]):
        assert main(["recipe", *command]) == 0
        texts.append(there.read_text())
    assert len(set(texts)) == 4
    assert main(["recipe", "--undo"]) == 0
    assert there.read_text() == texts[2]
    there.write_text(texts[2] + "# mine\n")
    assert main(["recipe", "--undo"]) == EXIT_BAD_PARAMS
    assert "changed by hand" in capsys.readouterr().err
    assert there.read_text() == texts[2] + "# mine\n"
    there.write_text(texts[2])
    assert main(["recipe", "--undo"]) == main(["recipe", "--undo"]) == 0
    assert there.read_text() == texts[0]
    assert main(["recipe", "--undo"]) == EXIT_BAD_PARAMS


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["laptop_vit_tinny"], "did you mean laptop_vit_tiny"),
        (["recipes/none.yaml"], "recipes/none.yaml: no such file"),
        (["--undo", "--set", "seed=1"], "--undo goes alone"),
    ],
)
def test_wrong_names_are_said(there, capsys, command, said):
    before = there.read_text()
    assert main(["recipe", *command]) == EXIT_BAD_PARAMS
    assert said in capsys.readouterr().err
    assert there.read_text() == before
