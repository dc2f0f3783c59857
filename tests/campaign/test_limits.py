"""A full disk, a folder that may not be written, two at once, few open files, a thousand epochs."""

import os
import random
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from campaign.attempts import Row, attempt, counted, difference, files, log_of, remove, results
from stages.tiny import write_tiny_params

pytestmark = pytest.mark.campaign

STAGES = ("ingest", "shard", "tokenizer", "pretrain", "knn", "finetune")
SIZES = ["demo={train: 120, val: 30, size: 64}", "shard.max_count=4", "pretrain.epochs=4"]
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk and becomes another user")


def made(project, folder, store, *settings):
    folder.mkdir()
    write_tiny_params(folder, project, store, *SIZES, *settings)
    shutil.copy(project / "dvc.yaml", folder / "dvc.yaml")
    return folder


@pytest.fixture(scope="module")
def unbroken(project, tmp_path_factory, migrated_store):
    """A folder in which the first stages ran once."""
    folder = made(project, tmp_path_factory.mktemp("limits") / "unbroken", migrated_store)
    for stage in STAGES:
        assert attempt(folder, stage).code == 0, log_of(folder)
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, and a function that sets the bytes of this disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("this machine mounts no disk")

    def resize(size):
        subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)

    yield disk, resize
    subprocess.run(["umount", "-l", str(disk)], check=True)


@as_root
@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_named_in_one_sentence_and_room_is_enough_to_go_on(
    unbroken, stage, kills, table, small_disk
):
    folder, resize = small_disk  # what a stage prints is beside it, on another disk
    row, draw = Row("disk full"), random.Random()
    expected, count = results(unbroken, stage), counted(unbroken, stage)
    for _ in range(kills):
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(unbroken, folder, dirs_exist_ok=True)
        remove(folder, stage)
        used = psutil.disk_usage(str(folder)).used
        resize(used + draw.randrange(4096, 300_000))
        end = attempt(folder, stage)
        resize(256 << 20)
        row.tried += end.code != 0
        if end.code:
            said = log_of(folder)
            assert "Traceback" not in said, said
            assert "space" in said or "full" in said, said
        assert attempt(folder, stage).code == 0, log_of(folder)
        row.ended += 1
        row.came_back += 1
        row.identical += results(folder, stage) == expected
        row.lost_or_doubled += difference(counted(folder, stage), count)
        row.left |= files(folder) - files(unbroken)
    table.append(row)
    row.check()


@as_root
@pytest.mark.parametrize("stage", STAGES)
def test_a_folder_that_may_not_be_written_is_named(unbroken, stage, table, tmp_path):
    row, folder = Row("folder not writable", tried=1), tmp_path / "folder"
    shutil.copytree(unbroken, folder)
    remove(folder, stage)
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o755)
    end = attempt(folder, stage, user=NOBODY)
    said = log_of(folder)
    assert end.code not in (0, None)
    assert "Traceback" not in said, said
    assert "ermission" in said, said
    assert attempt(folder, stage).code == 0, log_of(folder)
    row.ended = row.came_back = 1
    row.identical = int(results(folder, stage) == results(unbroken, stage))
    table.append(row)
    row.check()


@pytest.mark.parametrize("stage", STAGES)
def test_of_two_at_once_one_goes_on_and_the_other_says_so(unbroken, stage, table, tmp_path):
    row, folder = Row("two at once", tried=2, ended=1), tmp_path / "folder"
    shutil.copytree(unbroken, folder)
    remove(folder, stage)
    with ThreadPoolExecutor() as pool:
        ends = [one.result() for one in [pool.submit(attempt, folder, stage) for _ in range(2)]]
    assert 0 in {end.code for end in ends}, log_of(folder)
    assert "Traceback" not in log_of(folder), log_of(folder)
    row.came_back = 1
    row.identical = int(results(folder, stage) == results(unbroken, stage))
    row.lost_or_doubled = difference(counted(folder, stage), counted(unbroken, stage))
    row.left = files(folder) - files(unbroken)
    table.append(row)
    row.check()


def test_5000_shards_need_no_more_than_64_open_files(project, migrated_store, table, tmp_path):
    settings = ["demo={train: 5000, val: 20, size: 16}", "shard.max_count=1", "pretrain.epochs=1"]
    settings += ["encoder.img_size=16", "pretrain.probe.every_epochs=0", "pretrain.warmup_epochs=0"]
    folder = made(project, tmp_path / "many", migrated_store, *settings)
    for stage in ("ingest", "shard", "tokenizer", "pretrain"):
        assert attempt(folder, stage, open_files=64).code == 0, log_of(folder)
    assert len([*folder.glob("data/shards/tars/**/*.tar")]) == 5020
    table.append(Row("5,000 shards, `ulimit -n 64`", tried=1, came_back=1, ended=1, bytes_are_promised=False))


def test_a_thousand_epochs_take_no_more_memory_than_a_hundred(project, migrated_store, table, tmp_path):
    settings = ["demo={train: 20, val: 10, size: 32}", "pretrain.epochs=1000", "runtime.workers=1"]
    settings += ["pretrain.probe.every_epochs=100", "runtime.checkpoint_every=50", "runtime.log_every=10"]
    folder = made(project, tmp_path / "long", migrated_store, *settings)
    for stage in ("ingest", "shard", "tokenizer"):
        assert attempt(folder, stage).code == 0, log_of(folder)
    samples, over = [], threading.Event()

    def watch():
        while not over.wait(0.5):
            running = [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(folder)]
            if running:
                samples.append(sum(one.memory_info().rss for one in running))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.monotonic()
    end = attempt(folder, "pretrain")
    over.set()
    watcher.join()
    assert end.code == 0, log_of(folder)
    early, late = max(samples[: len(samples) // 4]), max(samples[-len(samples) // 4 :])
    print(f"{early / 2**20:.0f} MiB, then {late / 2**20:.0f} MiB after {time.monotonic() - started:.0f} s")
    assert late < 1.05 * early
    table.append(Row("memory over 1,000 epochs", tried=1, came_back=1, ended=1, bytes_are_promised=False))
