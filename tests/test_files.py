import fcntl
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from mae import files

KILLED = """
import os, signal, sys
from mae import files
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
files.write_json(sys.argv[1], {"half": True})
"""
SLOW = """
import sys
from mae import files
with files.atomic_write(sys.argv[1]) as file:
    file.write(b"of the slow one")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def killed_while_writing(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_kill_between_write_and_rename_leaves_the_old_file_and_nothing_after_the_next_write(tmp_path):
    path = tmp_path / "run.json"
    files.write_json(path, {"state": "old"})
    killed_while_writing(path)
    assert files.read_json(path) == {"state": "old"}
    assert len(names(tmp_path)) == 2, "the kill left no part: this test shows nothing"
    files.write_json(path, {"state": "new"})
    assert names(tmp_path) == ["run.json"]
    assert files.read_json(path) == {"state": "new"}


def test_parts_of_other_files_and_of_earlier_releases_go_with_the_next_write_to_the_folder(tmp_path):
    killed_while_writing(tmp_path / "other.json")
    for name in (".run.json.99999999.partial", ".tracking.json.99999999.tmp"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".demo.partial").mkdir()  # the folder of a demo that is being written
    others = {".editor.tmp", ".download.partial", "notes.tmp", "notes.12345678.partial"}
    for name in others:
        (tmp_path / name).write_bytes(b"another program's, or a person's")
    files.write_text(tmp_path / "run.json", "new")
    assert set(names(tmp_path)) == {".demo.partial", "run.json", *others}


def test_the_part_of_a_live_writer_is_never_removed(tmp_path):
    path = tmp_path / "run.json"
    slow = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert slow.stdout is not None
    assert slow.stdout.readline() == "writing\n"
    files.write_text(path, "of the fast one")
    files.remove_stale(tmp_path)
    assert len(names(tmp_path)) == 2
    slow.communicate("\n", timeout=60)
    assert slow.returncode == 0
    assert path.read_text() == "of the slow one"
    assert names(tmp_path) == ["run.json"]


def test_an_error_while_writing_leaves_the_old_file_alone(tmp_path):
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), files.atomic_write(tmp_path / "a") as file:
        file.write(bytes([1 // (file.write(b"new") - 3)]))
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_many_writers_of_one_file_at_once_each_write_it_whole(tmp_path):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(files.write_text, [(tmp_path / "a", str(n % 10) * 100_000) for n in range(40)])
    assert len(set((tmp_path / "a").read_text())) == 1
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: files.write_bytes(path, b"x" * 200_000),
        lambda path: _array(path),
        lambda path: _torch(path),
        lambda path: _safetensors(path),
    ],
    ids=["bytes", "numpy", "torch", "safetensors"],
)
def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path, write):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(files.DiskFull, match=r"weights: no space left .* run again"):
            write(tmp_path / "weights")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def _array(path: Path) -> None:
    with files.atomic_write(path) as file:
        np.save(file, np.zeros(100_000))


def _torch(path: Path) -> None:
    with files.atomic_write(path) as file:
        torch.save({"a": torch.zeros(100_000)}, file)


def _safetensors(path: Path) -> None:
    with files.atomic_path(path) as part:
        safetensors.torch.save_file({"a": torch.zeros(100_000)}, part)


def test_a_file_system_without_locks_can_be_written_and_keeps_every_part(tmp_path, monkeypatch):
    def no_locks(*_: object) -> None:
        raise OSError(files.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / ".a.0.partial").write_bytes(b"perhaps still written")
    files.write_text(tmp_path / "a", "whole")
    assert names(tmp_path) == [".a.0.partial", "a"]


def test_a_write_syncs_the_file_before_and_the_folder_after_the_rename(tmp_path, monkeypatch):
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *pair: (done.append("rename"), replace(*pair)))
    files.write_text(tmp_path / "deep/a", "whole")
    part, rename, folder = done
    assert Path(part).name.startswith(".a.")
    assert (rename, folder) == ("rename", str(tmp_path / "deep"))


def test_a_move_to_another_file_system_is_whole(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "there/target"
    source.write_bytes(b"content")
    target.parent.mkdir()
    replace = os.replace

    def across(old: str | Path, new: str | Path) -> None:
        if Path(old).parent != Path(new).parent:
            raise OSError(files.errno.EXDEV, "Invalid cross-device link")
        replace(old, new)

    monkeypatch.setattr(os, "replace", across)
    files.move(source, target)
    assert target.read_bytes() == b"content"
    assert names(tmp_path) == ["there"]


def test_json_of_equal_content_is_not_written_again(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"b": 1, "a": 2})
    before = path.stat().st_ino
    files.write_json(path, {"a": 2, "b": 1})
    assert path.stat().st_ino == before


def test_json_that_is_missing_or_damaged_reads_as_none(tmp_path):
    assert files.read_json(tmp_path / "a.json") is None
    (tmp_path / "a.json").write_bytes(b'{"a": ')
    assert files.read_json(tmp_path / "a.json") is None


def test_a_csv_keeps_which_values_are_absent(tmp_path):
    rows = [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 0.5, "knn_top1": 0.3}]
    files.write_csv(tmp_path / "curve.csv", rows)
    assert (tmp_path / "curve.csv").read_text().splitlines()[0] == "step,loss,knn_top1"
    assert files.read_csv(tmp_path / "curve.csv") == rows
