"""Projection of patch embeddings into two dimensions (CAE, arXiv 2202.03026, figure 5)."""

import numpy as np

from mae.suggestions import not_one_of

PROJECTIONS = ("pca", "tsne")


def project(embeddings: np.ndarray, how: str, seed: int) -> np.ndarray:
    """Project embeddings (N, D), N above 3, into two dimensions: (N, 2), scaled to [-1, 1].

    how: "pca", the two directions of largest variance (instant), or "tsne", which keeps neighbours together
    (the paper's; seconds for a thousand) and depends on the seed.
    """
    if how not in PROJECTIONS:
        raise ValueError(f"projection {not_one_of(how, PROJECTIONS)}")
    centred = embeddings.astype(np.float64) - embeddings.mean(0, dtype=np.float64)
    if how == "pca":  # equal embeddings are no error: an encoder may have collapsed
        places = centred @ np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1]
    else:
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(centred) - 1) / 3)
        places = TSNE(2, perplexity=perplexity, random_state=seed).fit_transform(centred)
        places -= places.mean(0)
    return np.asarray(places / max(np.abs(places).max(), np.finfo(float).tiny))
