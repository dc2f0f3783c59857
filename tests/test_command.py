import errno
import os
import subprocess
import sys
import tempfile

import pytest

from mae import __main__ as command
from mae.data.shards.write_shards import TooManyRejected
from mae.files import DiskFull
from mae.stage_table import STAGES


def test_help_imports_nothing_heavy():
    program = "import sys, mae.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert all(stage in done.stdout for stage in STAGES)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"torch", "timm", "mlflow", "prefect", "dvc", "numpy", "pydantic"}


def test_bad_parameters_are_said_without_a_trace(tmp_path, capsys):
    file = tmp_path / "params.yaml"
    file.write_text("seed: 0\npretrain: {}\n")
    assert command.main(["--params", str(file), "pretrain"]) == 2
    said = capsys.readouterr().err
    assert "pretrain.epochs: missing" in said
    assert "Traceback" not in said


def test_an_interrupted_stage_has_its_own_exit_status(monkeypatch, project):
    class Interrupted(Exception):
        pass

    def stage(arguments):
        raise Interrupted("stopped after step 3")

    monkeypatch.setattr(command, "_stage", stage)
    assert command.main(["--params", str(project / "params.yaml"), "report"]) == 75


def test_data_that_cannot_be_used_has_its_own_exit_status(monkeypatch, project, capsys):
    def stage(arguments):
        raise TooManyRejected("a.jpg: truncated")

    monkeypatch.setattr(command, "_stage", stage)
    assert command.main(["--params", str(project / "params.yaml"), "shard"]) == command.EXIT_REJECTED == 4
    assert "mae shard: a.jpg: truncated" in capsys.readouterr().err


def refused(number, name=None):
    return OSError(number, os.strerror(number), name)


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (refused(errno.ENOSPC, "work/parent.json"), "work/parent.json: no space left"),
        (refused(errno.EDQUOT), "no space left"),
        (caused(KeyError("inductor"), refused(errno.ENOSPC)), "no space left"),
        (Exception("unable to write to file </torch_1>: No space left on device (28)"), "no space left"),
        (Exception("(sqlite3.OperationalError) database or disk is full"), "no space left"),
        (caused(refused(errno.ENOSPC), DiskFull("a.tar: no space left; run again")), "mae report: a.tar: no"),
        (refused(errno.EROFS, "models/pretrain"), "models/pretrain: Read-only file system; put that right"),
        (refused(errno.EACCES, "data"), "data: Permission denied; put that right"),
    ],
)
def test_what_a_disk_does_to_a_library_is_one_sentence_with_the_remedy(monkeypatch, capsys, error, place):
    def stage(arguments):
        raise error

    monkeypatch.setattr(command, "_stage", stage)
    assert command.main(["report"]) == 1
    said = capsys.readouterr().err
    assert place in said
    assert "run again" in said
    assert len(said.splitlines()) == 1


def test_ctrl_c_has_its_own_status_and_says_to_run_again(monkeypatch, capsys):
    def stage(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_stage", stage)
    assert command.main(["report"]) == 130
    assert "interrupted; what is finished is kept, run it again" in capsys.readouterr().err


def test_a_fault_of_ours_shows_its_trace(monkeypatch):
    def stage(arguments):
        raise KeyError("a bug")

    monkeypatch.setattr(command, "_stage", stage)
    with pytest.raises(KeyError):
        command.main(["report"])


def test_a_training_stage_becomes_torchrun_where_its_variables_ask_for_it(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "execve", lambda program, arguments, variables: called.append(arguments))
    monkeypatch.setattr(command, "_stage", lambda arguments: None)
    monkeypatch.delenv("RANK", raising=False)
    for name in ("PET_NPROC_PER_NODE", "PET_NNODES"):
        monkeypatch.delenv(name, raising=False)
    command.main(["pretrain"])
    assert not called
    monkeypatch.setenv("PET_NPROC_PER_NODE", "8")
    command.main(["report"])
    assert not called
    command.main(["--params", "p.yaml", "pretrain"])
    assert called[0][1:] == ["-m", "torch.distributed.run", "-m", "mae", "--params", "p.yaml", "pretrain"]
    monkeypatch.setenv("RANK", "0")
    command.main(["pretrain"])
    assert len(called) == 1
