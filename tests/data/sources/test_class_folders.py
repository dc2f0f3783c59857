import numpy as np
import pytest

from mae.data.loading.batches import TooManySkipped, evaluation_batches
from mae.data.sources.base import SourceError
from mae.data.sources.class_folders import ClassFolders
from mae.data.transforms.image import evaluation

LABELS = {"n01": 0, "n02": 1, "n03": 2}


@pytest.fixture
def root(tmp_path, picture, encoded):
    for name, count in (("n03", 3), ("n01", 2)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "set" / name / f"{number}.JPEG").write_bytes(encoded(picture(number)))
    (tmp_path / "set/README.txt").write_text("not an image")
    return tmp_path / "set"


def batches(folders, **options):
    return list(evaluation_batches(folders, evaluation(16), batch_size=2, **options))


def test_every_image_comes_once_with_the_label_of_its_folder_over_ranks_and_workers(root):
    folders = ClassFolders(root, LABELS)
    assert folders.classes == ["n01", "n03"]
    alone = batches(folders)
    assert np.concatenate([batch["labels"] for batch in alone]).tolist() == [0, 0, 2, 2, 2]
    found = [batch for rank in range(2) for batch in batches(folders, rank=rank, world=2, workers=1)]
    assert sorted(row for batch in found for row in batch["rows"].tolist()) == [0, 1, 2, 3, 4]
    assert alone[0]["images"].shape == (2, 3, 16, 16)


def test_an_image_that_does_not_decode_is_named(root):
    (root / "n03/1.JPEG").write_bytes(b"\xff\xd8\xff cut short")
    with pytest.raises(TooManySkipped, match=r"n03/1.JPEG"):
        batches(ClassFolders(root, LABELS))


def test_the_digest_tells_sets_apart_by_names_and_sizes(root):
    before = ClassFolders(root, LABELS).digest
    assert ClassFolders(root, LABELS).digest == before
    (root / "n01/0.JPEG").rename(root / "n01/9.JPEG")
    assert ClassFolders(root, LABELS).digest != before


def test_folders_that_are_no_class_or_hold_nothing_are_named(root, tmp_path):
    with pytest.raises(SourceError, match="n03: not among the 2 known classes"):
        ClassFolders(root, {"n01": 0, "n02": 1})
    (root / "n02").mkdir()
    with pytest.raises(SourceError, match="n02: holds no image"):
        ClassFolders(root, LABELS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty: holds no folder"):
        ClassFolders(tmp_path / "empty", LABELS)
    with pytest.raises(SourceError, match="nowhere: does not exist"):
        ClassFolders(tmp_path / "nowhere", LABELS)
