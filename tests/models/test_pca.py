"""Facts about principal components of patches."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.testing import assert_close

from mae.models.patches import patchify
from mae.models.pca import Moments, PatchPCA

IMAGES = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)).cumsum(-1)


def fitted(components):
    moments = Moments(48)
    for batch in IMAGES.split(7):
        moments.add(patchify(batch, 4).flatten(0, 1))
    found = PatchPCA((2, 2), (4, 4), components=components)
    found.take(moments)
    return found


def test_it_is_what_scikit_learn_finds_with_all_patches_in_memory():
    patches = patchify(IMAGES, 4).flatten(0, 1).double().numpy()
    theirs, ours = PCA(10, svd_solver="full").fit(patches), fitted(10)
    signs = np.sign((theirs.components_ * ours.components.double().numpy()).sum(1, keepdims=True))
    assert_close(ours.components.double().numpy(), theirs.components_ * signs, rtol=1e-4, atol=1e-4)
    assert ours.explained.item() == pytest.approx(theirs.explained_variance_ratio_.sum(), rel=1e-5)
    found = ours.coefficients(IMAGES).flatten(0, 1).double().numpy()
    assert_close(found, theirs.transform(patches) * signs.T, rtol=1e-3, atol=1e-3)


def test_all_components_give_the_patches_back():
    found = fitted(48)
    assert_close(found.round_trip(IMAGES), patchify(IMAGES, 4), rtol=1e-4, atol=1e-4)
    assert found.explained.item() == pytest.approx(1)


def test_its_error_is_the_variance_that_it_does_not_explain():
    found = fitted(10)
    variance = patchify(IMAGES, 4).flatten(0, 1).var(0, correction=0).mean()
    assert_close(found(IMAGES)["error"], (1 - found.explained) * variance, rtol=1e-3, atol=0)


def test_coefficients_have_the_variances_it_says():
    found = fitted(10)
    coefficients = found.coefficients(IMAGES).flatten(0, 1)
    assert_close(coefficients.mean(0), torch.zeros(10), rtol=0, atol=1e-3)
    assert_close(coefficients.var(0, correction=0), found.variances, rtol=1e-4, atol=1e-4)


def test_more_components_than_values_are_refused():
    with pytest.raises(ValueError, match="49 components of patches of 48 values"):
        PatchPCA((2, 2), (4, 4), components=49)
