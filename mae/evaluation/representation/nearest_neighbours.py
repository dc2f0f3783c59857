"""Weighted nearest neighbours on frozen features. They need no training, so they can probe a pretraining."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from mae import distributed
from mae.evaluation.classification.accuracy import Evaluation, answer_table, summarise
from mae.models.vit import encode
from mae.suggestions import not_one_of

POOLS = ("avg", "token")


@dataclass(frozen=True)
class Features:
    """Features (N, D) of samples with their labels (N,) and rows (N,), on one device, of all ranks."""

    features: Tensor
    labels: Tensor
    rows: Tensor
    skipped: int = 0


@torch.no_grad()
def extract(
    vit: VisionTransformer,
    batches: Iterable[Mapping[str, Any]],
    *,
    normalize: Callable[[Tensor], Tensor],
    pool: str = "avg",
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    tokens_of: Callable[[VisionTransformer, Tensor], Tensor] = encode,
) -> Features:
    """Extract features after the final norm: the mean patch token ("avg") or the class token ("token").

    batches: this rank's evaluation batches, as in `evaluate`. tokens_of: gives other tokens (N, 1+L, D) than
    those after the final norm. Leaves the mode of `vit` unchanged.
    Raises ValueError for another pool and without samples.
    """
    if pool not in POOLS:
        raise ValueError(f"pool {not_one_of(pool, POOLS)}")
    device, training = torch.device(device), vit.training
    vit.eval()
    # A rank may have no sample: it still takes part when the ranks gather.
    features = [torch.zeros(0, vit.embed_dim, device=device)]
    labels = [torch.zeros(0, dtype=torch.int64, device=device)]
    rows, skipped = [labels[0]], 0
    for batch in batches:
        images = normalize(batch["images"].to(device, non_blocking=True))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            tokens = tokens_of(vit, images)
        features.append((tokens[:, 1:].mean(1) if pool == "avg" else tokens[:, 0]).float())
        labels.append(batch["labels"].to(device))
        rows.append(batch["rows"].to(device))
        skipped += int(batch.get("skipped", 0))
    vit.train(training)
    skipped = int(distributed.gather(torch.tensor([skipped])).sum())
    whole = [distributed.gather(torch.cat(part)) for part in (features, labels, rows)]
    if not len(whole[0]):
        raise ValueError(f"no sample to extract features from; {skipped} could not be decoded")
    return Features(whole[0], whole[1], whole[2], skipped)


@torch.no_grad()
def knn_votes(
    train: Tensor,
    labels: Tensor,
    test: Tensor,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    test_chunk: int = 1024,
    train_chunk: int = 65536,
) -> Tensor:
    """Compute votes (N, classes) for test (N, D) of the k nearest of train (M, D) with labels (M,).

    The similarity s is the cosine; a vote weighs exp((s - 1) / temperature) (Wu et al., arXiv 1805.01978).
    Works on the device of `test` in chunks: at most test_chunk x train_chunk similarities exist at a time,
    and `train` may be on another device. k above M means all M. Raises ValueError for a label that is no
    class.
    """
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"kNN needs labelled training features with labels in [0, {num_classes})")
    k = min(k, len(train))
    votes = []
    for queries in F.normalize(test, dim=1).split(test_chunk):
        nearest = queries.new_empty(len(queries), 0)
        voters = labels.new_empty(len(queries), 0, device=test.device)
        for part, part_labels in zip(train.split(train_chunk), labels.split(train_chunk), strict=True):
            cosines = queries @ F.normalize(part.to(queries), dim=1).T
            cosines, ids = cosines.topk(min(k, len(part)), dim=1)
            nearest = torch.cat([nearest, cosines], dim=1)
            voters = torch.cat([voters, part_labels.to(test.device)[ids]], dim=1)
            nearest, ids = nearest.topk(min(k, nearest.shape[1]), dim=1)
            voters = voters.gather(1, ids)
        weights = ((nearest - 1) / temperature).exp()
        votes.append(queries.new_zeros(len(queries), num_classes).scatter_add_(1, voters, weights))
    return torch.cat(votes)


def evaluate_by_neighbours(
    train: Features, test: Features, *, num_classes: int, k: int = 20, temperature: float = 0.07
) -> Evaluation:
    """Evaluate the votes that `train` gives for `test`; ranks share the work."""
    mine = slice(distributed.rank(), None, distributed.world_size())
    votes = knn_votes(
        train.features,
        train.labels,
        test.features[mine],
        num_classes=num_classes,
        k=k,
        temperature=temperature,
    )
    table = answer_table(votes, test.labels[mine], test.rows[mine])
    skipped = test.skipped if distributed.is_main() else 0
    return summarise([table], num_classes, skipped, with_loss=False)


def online_probe(
    vit: VisionTransformer,
    train: Callable[[], Iterable[Mapping[str, Any]]],
    test: Callable[[], Iterable[Mapping[str, Any]]],
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    **extraction: Any,
) -> Callable[[int], dict[str, float]]:
    """Make a hook for `fit`: the kNN accuracy of the current `vit` on a few samples, {"knn_top1": fraction}.

    train, test: functions that give this rank's evaluation batches from the start. extraction: arguments of
    `extract`.
    """

    def probe(step: int) -> dict[str, float]:
        voters, tested = (extract(vit, batches(), **extraction) for batches in (train, test))
        result = evaluate_by_neighbours(voters, tested, num_classes=num_classes, k=k, temperature=temperature)
        return {"knn_top1": result.top1}

    return probe
