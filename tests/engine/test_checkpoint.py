"""Checkpoints are whole, few, and never silently wrong."""

import errno
import logging
import os
import random
from pathlib import Path

import pytest
import torch

from mae.engine.checkpoint import VERSION, CheckpointError, Checkpoints


def state(step):
    return {
        "version": VERSION,
        "step": step,
        "method": {"w": torch.full((64,), float(step))},
        "run_id": f"r{step}",
    }


def test_the_last_two_are_kept_and_the_newest_is_found(tmp_path):
    store = Checkpoints(tmp_path / "new" / "place", keep=2)
    assert store.latest() is None
    assert store.run_id() is None
    for step in (3, 20, 100):
        store.save(step, state(step))
    assert store.steps() == [20, 100]
    step, found = store.latest()
    assert step == found["step"] == 100
    torch.testing.assert_close(found["method"]["w"], torch.full((64,), 100.0))
    assert store.run_id() == "r100"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_a_broken_newest_file_is_named_and_the_one_before_is_taken(tmp_path, caplog, damage):
    store = Checkpoints(tmp_path)
    store.save(1, state(1))
    path = store.save(2, state(2))
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        at = content.find(torch.tensor([2.0, 2.0]).numpy().tobytes())
        content[at + 1] ^= 0xFF
    else:
        content = b"" if damage == "empty" else b"not a checkpoint"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        step, _ = store.latest()
    assert step == 1
    assert path.name in caplog.text
    store.save(5, state(5))
    assert store.steps() == [2, 5] or store.steps() == [1, 5]


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """Damage the bytes of a file in one of the ways that disks and copies do, by preference near its end."""
    data = bytearray(whole)
    at, size = draw.randrange(len(data)), draw.choice([1, 2, 8, 64, 512, 4096])
    if draw.random() < 0.4:
        at = len(data) - 1 - draw.randrange(1200)
    there = len(data[at : at + size])
    kind = draw.choice(["cut", "flipped", "zeroed", "garbage", "shifted"])
    if kind == "cut":
        del data[at:]
    elif kind == "flipped":
        for _ in range(draw.choice([1, 1, 3])):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == "shifted":
        data[at:at] = draw.randbytes(size)
    else:
        data[at : at + there] = bytes(there) if kind == "zeroed" else draw.randbytes(there)
    return bytes(data)


@pytest.mark.parametrize("release", ["this", "before digests"])
@pytest.mark.filterwarnings("ignore")  # torch's and zipfile's, of what they read
def test_whatever_damages_the_newest_file_it_is_whole_or_the_one_before_is_taken(tmp_path, release):
    store, draw = Checkpoints(tmp_path), random.Random(13)
    store.save(1, state(1))
    path = store.save(2, state(2))
    if release == "before digests":
        torch.save(state(2), path)
    whole, taken = path.read_bytes(), set()
    for _ in range(600):
        path.write_bytes(damaged(whole, draw))
        step, found = store.latest()
        taken.add(step)
        assert found["run_id"] == f"r{step}"
        torch.testing.assert_close(found["method"], state(step)["method"], rtol=0, atol=0)
        assert store.run_id() in ("r1", "r2")
    assert taken >= {1}


def test_a_byte_that_zip_files_do_not_check_is_noticed(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(1, state(1))
    path = store.save(2, state(2))
    content = bytearray(path.read_bytes())
    content[content.rfind(b"PK\x01\x02") + 31] ^= 4  # the table of contents, of which zip has no checksum
    path.write_bytes(content)
    assert store.latest()[0] == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ESTALE])
def test_a_disk_that_cannot_be_read_is_an_error_and_no_reason_to_go_back(tmp_path, monkeypatch, number):
    store = Checkpoints(tmp_path)
    for step in (1, 2):
        store.save(step, state(step))

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuse)
    for read in (store.latest, store.run_id):
        with pytest.raises(
            CheckpointError, match=rf"step-000000002\.pt cannot.*{os.strerror(number)}.*again"
        ):
            read()


def test_a_checkpoint_of_the_release_before_is_read(tmp_path):
    store = Checkpoints(tmp_path)
    torch.save(state(7), store.path(7))
    assert store.latest()[0] == 7
    assert store.run_id() == "r7"


def test_a_broken_later_file_never_pushes_out_the_good_one(tmp_path):
    store = Checkpoints(tmp_path, keep=2)
    store.save(10, state(10))
    store.path(40).write_bytes(b"broken")
    store.save(20, state(20))
    assert store.steps() == [10, 20]


def test_only_broken_files_are_an_error_rather_than_a_new_beginning(tmp_path):
    store = Checkpoints(tmp_path)
    store.path(4).write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        store.latest()


def test_a_failed_write_leaves_the_older_checkpoint_and_no_temporary_file(tmp_path, monkeypatch):
    store = Checkpoints(tmp_path)
    store.save(1, state(1))

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match=r"step-000000002.pt cannot be written.*No space left"):
        store.save(2, state(2))
    assert os.listdir(tmp_path) == ["step-000000001.pt"]


def test_what_a_killed_writer_left_is_swept_by_the_next_save(tmp_path):
    store = Checkpoints(tmp_path)
    (tmp_path / ".step-000000001.pt.99.tmp").write_bytes(b"half")
    store.save(2, state(2))
    assert os.listdir(tmp_path) == ["step-000000002.pt"]


def test_another_format_version_is_refused_by_name(tmp_path):
    store = Checkpoints(tmp_path)
    store.save(1, state(1) | {"version": VERSION + 1})
    with pytest.raises(CheckpointError, match="format"):
        store.load(1)
