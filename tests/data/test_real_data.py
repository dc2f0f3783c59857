"""The small real sets beside the checkout, through the whole of mae.data."""

import pytest
import torch

from mae.data.listing.manifest import open_source, write_listing
from mae.data.loading.batches import evaluation_batches, training_batches
from mae.data.shards.index import Index
from mae.data.shards.write_shards import write_shards
from mae.data.transforms.image import evaluation, pretraining


@pytest.mark.parametrize(
    ("name", "classes", "train", "val"),
    [("imagenet-mini", 20, 2000, 400), ("tiny-imagenet-mini", 200, 12000, 2000)],
)
def test_a_real_set_is_listed_sharded_and_loaded_whole(shared_data, tmp_path, name, classes, train, val):
    root = shared_data / name
    manifest = write_listing(open_source("folder", root), tmp_path / "listing")
    assert {split: one["count"] for split, one in manifest["splits"].items()} == {"train": train, "val": val}
    assert len(manifest["classes"]) == classes
    write_shards(tmp_path / "listing", tmp_path / "out", tmp_path / "work", workers=2)
    index = Index.open(tmp_path / "out")
    assert index.about["rejected"]["count"] == 0
    split = index.split("train")
    for row in range(0, train, 211):
        about = split.meta(row)
        assert split.read(row) == (root / about["path"]).read_bytes()
        assert about["path"].split("/")[1] == index.classes[split.label(row)]
    stream = training_batches(split, pretraining(64), global_batch=64, start=0, stop=3, seed=0, workers=2)
    assert [tuple(batch["images"].shape) for batch in stream] == [(64, 3, 64, 64)] * 3
    rows = torch.arange(0, val, 4).numpy()
    labels = [
        batch["labels"]
        for batch in evaluation_batches(index.split("val"), evaluation(64), batch_size=50, rows=rows)
    ]
    assert sum(map(len, labels)) == len(rows)
    assert int(torch.cat(labels).max()) < classes


def test_unlabelled_photographs_are_sharded_from_a_flat_folder(shared_data, tmp_path):
    write_listing(open_source("flat", shared_data / "coco-mini", 0.1), tmp_path / "listing")
    index = write_shards(tmp_path / "listing", tmp_path / "out", tmp_path / "work", max_side=320)
    assert index["classes"] == []
    assert index["resized"]["count"] > 100
    split = Index.open(tmp_path / "out").split("train")
    assert max(max(split.meta(row)["width"], split.meta(row)["height"]) for row in range(len(split))) == 320
