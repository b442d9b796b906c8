"""No image both teaches and measures."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_soda._repair.preparation import partition


@given(counts=st.lists(st.integers(8, 60), min_size=2, max_size=6), seed=st.integers(0, 2**32 - 1))
def test_parts_share_no_image_and_each_has_every_class(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    parts = partition(labels, seed)
    rows = (*parts.folds, parts.measure)
    together = np.concatenate(rows)
    assert len(np.unique(together)) == len(together) == len(labels)
    for own in rows:
        assert set(labels[own]) == set(range(len(counts)))
    for label, count in enumerate(counts):
        assert abs((labels[parts.measure] == label).sum() - count / 4) <= 0.5
        held = [(labels[fold] == label).sum() for fold in parts.folds]
        assert max(held) - min(held) <= 1
    assert np.array_equal(parts.train, np.setdiff1d(together, parts.measure))


def test_the_same_seed_splits_alike() -> None:
    labels = np.arange(200) % 5
    first, second, other = (partition(labels, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.measure, second.measure)
    assert not np.array_equal(first.measure, other.measure)


def test_large_sets_are_thinned_evenly() -> None:
    labels = np.arange(100_000) % 10
    parts = partition(labels, 0)
    for rows in (*parts.folds, parts.measure):
        assert np.bincount(labels[rows]).tolist() == [200] * 10
