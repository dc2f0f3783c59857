import json
import os
import pickle
import shutil
import threading

import numpy as np
import pytest

from mae.data.shards.index import Index, ShardError


@pytest.fixture
def copy(tmp_path, small_index):
    """The small index in a place of its own, free to be damaged."""
    shutil.copytree(small_index.directory, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("name", ["tars/train-000002.tar", "tars/val.samples.npy", "rejected.json"])
@pytest.mark.parametrize("damage", ["missing", "renamed", "truncated", "grown"])
def test_a_file_that_is_missing_or_of_another_size_is_named_at_open(copy, name, damage):
    file = copy / name
    if damage == "missing":
        file.unlink()
    elif damage == "renamed":
        file.rename(file.with_name("other"))
    else:
        file.write_bytes(file.read_bytes()[:-512] if damage == "truncated" else file.read_bytes() + b"x")
    with pytest.raises(ShardError, match=name.split("/")[-1]):
        Index.open(copy)


@pytest.mark.parametrize("name", ["tars/train-000002.tar", "tars/val.samples.npy"])
def test_an_altered_byte_is_found_by_verify_and_its_file_named(copy, name, tmp_path):
    index = Index.open(copy)
    index.verify(tmp_path / "stamps.json")
    data = bytearray((copy / name).read_bytes())
    data[700 % len(data)] ^= 1
    (copy / name).write_bytes(data)
    index = Index.open(copy)
    with pytest.raises(ShardError, match=name.split("/")[-1]):
        index.verify(tmp_path / "stamps.json")
    with pytest.raises(ShardError, match=name.split("/")[-1]):
        index.verify()


def test_what_was_verified_is_not_read_again_until_it_changes(copy, tmp_path, monkeypatch):
    index = Index.open(copy)
    index.verify(tmp_path / "stamps.json")
    read = []
    from mae.data.shards import index as module

    real = module.sha256_of
    monkeypatch.setattr(module, "sha256_of", lambda path: (read.append(path.name), real(path))[1])
    index.verify(tmp_path / "stamps.json")
    assert read == []
    os.utime(copy / "tars/train-000001.tar", ns=(7, 7))
    index.verify(tmp_path / "stamps.json")
    assert read == ["train-000001.tar"]


def test_an_index_of_another_version_or_kind_is_refused(copy):
    about = json.loads((copy / "index.json").read_bytes())
    for text in ("", "[]", json.dumps({**about, "format": 99})):
        (copy / "index.json").write_text(text)
        with pytest.raises(ShardError, match=r"index\.json"):
            Index.open(copy)
    (copy / "index.json").unlink()
    with pytest.raises(ShardError, match="run the shard stage"):
        Index.open(copy)


def test_the_digest_is_the_data_s_identity(copy, small_index):
    assert Index.open(copy).digest == small_index.digest
    (copy / "index.json").write_text((copy / "index.json").read_text() + "\n")
    assert Index.open(copy).digest != small_index.digest


def test_a_shard_cut_short_while_open_fails_loud_by_name(copy):
    split = Index.open(copy).split("train")
    with (copy / "tars/train-000000.tar").open("r+b") as file:
        file.truncate(600)
    with pytest.raises(ShardError, match=r"train-000000\.tar"):
        split.read(0)
    (copy / "tars/train-000001.tar").unlink()
    with pytest.raises(ShardError, match=r"train-000001\.tar"):
        split.read(int(np.flatnonzero(split.shard_of == 1)[0]))


def test_a_split_that_is_not_there_is_named(small_index):
    with pytest.raises(ShardError, match="'test', only train, val"):
        small_index.split("test")


def test_a_split_sent_to_another_process_reads_the_same(small_index):
    split = small_index.split("train")
    other = pickle.loads(pickle.dumps(split))
    assert len(pickle.dumps(split)) < 2000
    assert [other.read(row) for row in range(len(split))] == [split.read(row) for row in range(len(split))]


def test_many_threads_read_through_few_open_files(small_index, monkeypatch):
    monkeypatch.setattr("mae.data.shards.split._MAX_OPEN", 2)
    split = small_index.split("train")
    expected = [split.read(row) for row in range(len(split))]
    got: dict[int, list[bytes]] = {}

    def read(thread):
        got[thread] = [split.read(row) for row in range(len(split))]

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(got[number] == expected for number in range(4))
    assert len(split._files) <= 2


def test_a_subset_takes_as_many_of_each_class_by_seed(small_index):
    split = small_index.split("train")
    rows = split.subset(5, seed=0)
    assert np.bincount(split.labels[rows]).tolist() == [5, 5, 5]
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, split.subset(5, seed=0))
    assert set(rows) != set(split.subset(5, seed=1))
    assert np.bincount(split.labels[split.subset(10, seed=0)]).tolist() == [10, 10, 8]
    with pytest.raises(ValueError, match="per_class"):
        split.subset(0, seed=0)


def test_what_is_looked_at_is_val_or_train_where_there_is_none(copy):
    assert Index.open(copy).viewed.name == "val"
    about = json.loads((copy / "index.json").read_text())
    del about["splits"]["val"]
    (copy / "index.json").write_text(json.dumps(about))
    assert Index.open(copy).viewed.name == "train"
