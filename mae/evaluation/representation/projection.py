"""Patch embeddings in two dimensions, as CAE's figure 5 shows them."""

import numpy as np

PROJECTIONS = ("pca", "tsne")


def project(embeddings: np.ndarray, how: str, seed: int) -> np.ndarray:
    """Embeddings (N, D), N above 3, in two dimensions: (N, 2), scaled to within [-1, 1].

    how: "pca", the two directions of largest variance (instant), or "tsne", neighbours kept together
    (arXiv 2202.03026, figure 5; seconds for a thousand), which the seed moves.
    """
    if how not in PROJECTIONS:
        raise ValueError(f"projection {how!r}: choose one of {', '.join(PROJECTIONS)}")
    centred = embeddings.astype(np.float64) - embeddings.mean(0, dtype=np.float64)
    if how == "pca":  # embeddings all alike are no error: an encoder may have collapsed
        places = centred @ np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1]
    else:
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(centred) - 1) / 3)
        places = TSNE(2, perplexity=perplexity, random_state=seed).fit_transform(centred)
        places -= places.mean(0)
    return np.asarray(places / max(np.abs(places).max(), np.finfo(float).tiny))
