"""A linear probe on the tokens after each block of an encoder (iGPT, section 4.1)."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from timm.models.vision_transformer import VisionTransformer

from mae.evaluation.representation.nearest_neighbours import extract
from mae.models.vit import tokens_after

Batches = Callable[[], Iterable[Mapping[str, Any]]]


def top1_by_layer(
    vit: VisionTransformer, train: Batches, test: Batches, *, causal: bool = False, **extraction: Any
) -> list[float]:
    """Compute top-1 on `test` of a linear classifier on the mean patch token after each block, first to last.

    The classifier is ridge regression onto the classes, on features of mean 0 and variance 1: it has a closed
    form, and needs no schedule. causal: as in the encoder's training. train, test: functions that give this
    rank's evaluation batches from the start. extraction: more arguments of `extract`.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    accuracies = []
    for block in range(len(vit.blocks)):
        tokens_of = partial(tokens_after, block=block, causal=causal)
        fitted, tested = (
            extract(vit, batches(), tokens_of=tokens_of, **extraction) for batches in (train, test)
        )
        classifier = make_pipeline(StandardScaler(), RidgeClassifier())
        classifier.fit(fitted.features.cpu().numpy(), fitted.labels.cpu().numpy())
        score = classifier.score(tested.features.cpu().numpy(), tested.labels.cpu().numpy())
        accuracies.append(float(score))
    return accuracies
