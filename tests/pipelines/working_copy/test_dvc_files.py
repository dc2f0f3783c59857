"""Files of DVC that a kill cut short do not keep the next flow from running."""

import json

import pytest

from pipelines.working_copy.dvc_files import COPY, LOCK, RWLOCK, secure

CHAIN = {"a": ("echo >> ran-a", []), "b": ("echo >> ran-b", ["a"])}


def times(folder, stage):
    return len((folder / f"ran-{stage}").read_text().splitlines())


@pytest.fixture
def done(repo, dvc):
    """A working copy whose stages have run."""
    folder = repo(CHAIN)
    dvc(folder, "repro", "--quiet")
    return folder


@pytest.mark.parametrize("left", ["", "schema: '2.0'\nstages:\n  a:\n    cm", "schema: '2.0'\nstages:\n  a"])
def test_a_lock_file_cut_short_is_again_as_it_was(done, dvc, left):
    assert secure(done) == ""
    before = (done / LOCK).read_bytes()
    (done / LOCK).write_text(left)
    assert secure(done) == "dvc.lock was half written: restored its last copy"
    assert (done / LOCK).read_bytes() == before
    assert "up to date" in dvc(done, "repro")


def test_without_a_copy_it_is_removed_and_the_run_cache_gives_back(done, dvc):
    (done / LOCK).write_text("")
    assert "removed it" in secure(done)
    dvc(done, "repro")
    assert times(done, "b") == 1  # the run cache knows stages that depend on something


def test_a_lock_file_that_somebody_removed_does_not_come_back(done):
    secure(done)
    (done / LOCK).unlink()
    assert secure(done) == ""
    assert not (done / COPY).exists()


LEFT = "removed .dvc/tmp/rwlock, which a killed process left"


def test_an_rwlock_cut_short_is_removed_and_a_whole_one_stays(done, dvc):
    whole = (done / RWLOCK).read_text()
    secure(done)
    assert (done / RWLOCK).read_text() == whole
    (done / RWLOCK).write_text(whole[:-1])
    assert secure(done) == LEFT
    assert "up to date" in dvc(done, "repro")


def test_an_rwlock_of_a_number_that_is_another_process_now_blocks_nothing(done, dvc, popen):
    other = popen(["sleep", "300"])
    held = {"write": {str(done / "b"): {"pid": other.pid, "cmd": "dvc repro"}}, "read": {}}
    (done / RWLOCK).write_text(json.dumps(held))
    assert secure(done) == LEFT
    dvc(done, "repro", "--force", "b")


def test_an_rwlock_of_a_dvc_at_work_stays(done, popen):
    working = popen(["python3", "-c", "import time; time.sleep(300)", "dvc", "repro"])
    held = {"write": {}, "read": {str(done / "a"): [{"pid": working.pid, "cmd": "dvc repro"}]}}
    (done / RWLOCK).write_text(json.dumps(held))
    assert secure(done) == ""
