"""Nearest neighbours equal the brute force, in whatever chunks, and can watch a training."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from mae.evaluation.representation.nearest_neighbours import (
    Features,
    evaluate_by_neighbours,
    extract,
    knn_votes,
    online_probe,
)
from mae.models import vit as encoder

CLASSES = 5


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    made = encoder.build(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=32, depth=1, num_heads=2
    )
    encoder.initialise(made)
    return made


def features(count, seed):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=draw)
    means = torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(9))
    return means[labels] + 1.5 * torch.randn(count, 16, generator=draw), labels


@pytest.mark.parametrize(("test_chunk", "train_chunk"), [(1024, 65536), (7, 33), (1, 5)])
def test_votes_equal_scikit_learns_in_any_chunks(test_chunk, train_chunk):
    (train, labels), (test, truth) = features(301, 1), features(50, 2)
    votes = knn_votes(
        train,
        labels,
        test,
        num_classes=CLASSES,
        k=9,
        temperature=0.1,
        test_chunk=test_chunk,
        train_chunk=train_chunk,
    )
    peer = KNeighborsClassifier(9, metric="cosine", weights=lambda distance: np.exp(-distance / 0.1))
    shares = peer.fit(train.numpy(), labels.numpy()).predict_proba(test.numpy())
    torch.testing.assert_close(
        votes / votes.sum(1, keepdim=True), torch.from_numpy(shares), check_dtype=False
    )
    assert (votes.argmax(1) == truth).float().mean() > 0.5


def test_more_neighbours_than_there_are_means_all():
    train, labels = features(6, 1)
    all_of_them = knn_votes(train, labels, train[:2], num_classes=CLASSES, k=6, train_chunk=4)
    torch.testing.assert_close(
        knn_votes(train, labels, train[:2], num_classes=CLASSES, k=50, train_chunk=4), all_of_them
    )


def test_unlabelled_neighbours_are_refused():
    train, labels = features(6, 1)
    with pytest.raises(ValueError, match="labels in"):
        knn_votes(train, labels - 6, train, num_classes=CLASSES)


def test_judging_by_neighbours_counts_each_sample_in_row_order():
    (train, labels), (test, truth) = features(301, 1), features(40, 2)
    rows = torch.arange(40).flip(0)
    found = evaluate_by_neighbours(
        Features(train, labels, torch.arange(301)), Features(test, truth, rows, 3), num_classes=CLASSES, k=9
    )
    right = knn_votes(train, labels, test, num_classes=CLASSES, k=9).argmax(1) == truth
    assert found.correct.tolist() == right.flip(0).tolist()
    assert (found.count, found.skipped, found.loss, found.top5) == (40, 3, None, 1.0)


def batches(count):
    draw = torch.Generator().manual_seed(4)
    images = torch.randint(0, 255, (count, 3, 16, 16), generator=draw, dtype=torch.uint8)
    for part in torch.arange(count).split(8):
        yield {"images": images[part], "labels": part % 2, "rows": part, "skipped": 1}


def test_features_are_the_mean_patch_or_the_class_token_after_the_norm(vit):
    images = torch.cat([batch["images"] for batch in batches(20)]).float()
    tokens = vit.eval().forward_features(images)
    vit.train()
    wanted = {"avg": tokens[:, 1:].mean(1), "token": tokens[:, 0]}
    for pool, value in wanted.items():
        found = extract(vit, batches(20), normalize=torch.Tensor.float, pool=pool)
        torch.testing.assert_close(found.features, value.detach(), rtol=1e-4, atol=1e-5)
        assert found.rows.tolist() == list(range(20))
        assert found.skipped == 3
    assert vit.training
    with pytest.raises(ValueError, match="pool"):
        extract(vit, batches(20), normalize=torch.Tensor.float, pool="max")
    with pytest.raises(ValueError, match="no sample"):
        extract(vit, [], normalize=torch.Tensor.float)


def test_the_online_probe_is_a_hook_that_starts_again_at_each_call(vit):
    probe = online_probe(
        vit, lambda: batches(20), lambda: batches(20), num_classes=2, k=1, normalize=torch.Tensor.float
    )
    assert probe(1) == probe(2) == {"knn_top1": 1.0}  # each sample is its own neighbour
