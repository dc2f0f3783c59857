"""Embeddings in two dimensions."""

import numpy as np
import pytest

from mae.evaluation.representation.projection import PROJECTIONS, project


@pytest.fixture(scope="module")
def groups():
    """Two groups of 20 that lie apart in 16 dimensions."""
    noise = np.random.default_rng(0).normal(size=(40, 16))
    return noise + 30 * np.repeat([[0.0], [1.0]], 20, axis=0)


@pytest.mark.parametrize("how", PROJECTIONS)
def test_groups_that_lie_apart_stay_apart(groups, how):
    places = project(groups, how, seed=0)
    assert places.shape == (40, 2)
    assert np.abs(places).max() == pytest.approx(1)
    first, second = places[:20], places[20:]
    between = np.linalg.norm(first.mean(0) - second.mean(0))
    assert between > 2 * max(np.linalg.norm(part - part.mean(0), axis=1).mean() for part in (first, second))


@pytest.mark.parametrize("how", PROJECTIONS)
def test_the_same_seed_gives_the_same_places(groups, how):
    np.testing.assert_array_equal(project(groups, how, seed=1), project(groups, how, seed=1))


def test_embeddings_that_are_all_alike_are_no_error():
    assert np.isfinite(project(np.ones((8, 4)), "pca", seed=0)).all()


def test_an_unknown_projection_is_an_error():
    with pytest.raises(ValueError, match="'umap' is not one of pca, tsne"):
        project(np.ones((8, 4)), "umap", seed=0)
