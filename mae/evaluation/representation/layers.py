"""Which layer of an encoder knows most: a linear probe on what each block leaves (iGPT, section 4.1)."""

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
    """Top-1 on `test` of a linear classifier on the mean patch token after each block, the first block first.

    The classifier is ridge regression onto the classes, on features of mean 0 and variance 1: it has a closed
    form, and needs no schedule. causal: as the encoder was trained. train, test: give this rank's evaluation
    batches anew at every call. extraction: more arguments of `knn.extract`.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    found = []
    for block in range(len(vit.blocks)):
        tokens_of = partial(tokens_after, block=block, causal=causal)
        known, asked = (
            extract(vit, batches(), tokens_of=tokens_of, **extraction) for batches in (train, test)
        )
        classifier = make_pipeline(StandardScaler(), RidgeClassifier())
        classifier.fit(known.features.cpu().numpy(), known.labels.cpu().numpy())
        found.append(float(classifier.score(asked.features.cpu().numpy(), asked.labels.cpu().numpy())))
    return found
