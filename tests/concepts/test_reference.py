"""Reference heads, and the pooling that they read layers through."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_soda._detect.concepts.layers import Pooling, make_pooling
from onnx_soda._detect.concepts.reference import ReferenceHead, fit_reference_head, trust_in

ROWS = Pooling("layer", 1, 2, None)


def test_reference_heads_learn_what_the_clean_images_support() -> None:
    """Feature 0 tells the classes apart; feature 1 is constant: no head may lean on it."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 50)
    features = np.stack([labels + rng.normal(0, 0.1, 100), np.full(100, 0.3)], axis=1)
    head = fit_reference_head(ROWS, features, labels, np.arange(100) % 2, 2)
    assert min(head.accuracies) > 0.95
    assert np.abs(head.weights[:, 1]).max() < 1e-6
    assert head.weights[:, 0, 1].min() > 0


def test_each_head_is_fitted_to_its_own_fold() -> None:
    """In fold 1 the labels are the other way round: its head has the opposite sign, and neither
    is right on the images of the other fold.
    """
    feature = np.tile([0.0, 1.0], 40)
    fold = np.repeat([0, 1], 40)
    labels = np.where(fold == 0, feature, 1 - feature).astype(int)
    head = fit_reference_head(ROWS, feature[:, None], labels, fold, 2)
    assert head.weights[0, 0, 1] > 0 > head.weights[1, 0, 1]
    assert head.accuracies == (0, 0)


def test_a_worse_head_is_trusted_less() -> None:
    """0.08 less accurate is two steps of 0.04: e^-2 as much."""
    heads = [
        ReferenceHead(ROWS, np.zeros((2, 1, 2)), np.zeros((2, 2)), (a, a)) for a in (0.9, 0.82)
    ]
    trust = trust_in(heads)
    assert trust.sum() == pytest.approx(1)
    assert trust[1] / trust[0] == pytest.approx(np.exp(-2))


def test_a_feature_map_is_averaged_over_cells() -> None:
    """An 8 x 4 map in 4 x 4 cells: each cell is the mean of two places, one below the other."""
    pooling = make_pooling("map", 1, (None, 2, 8, 4), grid=True)  # type: ignore[arg-type]
    maps = np.arange(2 * 2 * 8 * 4, dtype=np.float32).reshape(2, 2, 8, 4)
    expected = maps.reshape(2, 2, 4, 2, 4).mean(axis=3).reshape(2, -1)
    np.testing.assert_allclose(pooling.apply(maps), expected)


def test_channels_last_and_tokens_are_averaged_over_all_places() -> None:
    values = np.random.default_rng(0).random((3, 5, 6, 4))
    pooling = make_pooling("map", 3, values.shape, grid=False)
    np.testing.assert_allclose(pooling.apply(values), values.mean(axis=(1, 2)))
    tokens = values[:, :, 0]
    pooling = make_pooling("tokens", 2, tokens.shape, grid=True)
    np.testing.assert_allclose(pooling.apply(tokens), tokens.mean(axis=1))


def test_wide_layers_keep_fewer_cells() -> None:
    """768 features at most: 64 channels leave 3 x 3 cells, 1,000 channels one."""
    for channels, cells in ((48, 16), (64, 9), (1000, 1)):
        pooling = make_pooling("map", 1, (1, channels, 14, 14), grid=True)
        assert pooling.matrix is not None
        assert pooling.matrix.shape == (196, cells)
