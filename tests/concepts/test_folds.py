"""Folds of the clean images share nothing and treat classes alike."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_soda._detect.concepts.folds import group_by_fold, split_into_folds

COUNTS = st.lists(st.integers(1, 60), min_size=2, max_size=12).filter(lambda some: max(some) > 1)


@given(counts=COUNTS, seed=st.integers(0, 2**32 - 1))
def test_folds_are_even_in_every_class(counts: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    folds = split_into_folds(labels, np.random.default_rng(seed))
    assert (np.diff(folds.rows) > 0).all()  # sorted, no image twice
    assert (folds.confirm | ~folds.search).all()  # searched images are looked at too
    for label, count in enumerate(counts):
        own = labels[folds.rows] == label
        # Few enough to take all; one alone is in no fold, since both need one.
        count = 0 if count == 1 else count
        assert own.sum() == count
        first, second = (int((folds.fold[own] == fold).sum()) for fold in (0, 1))
        assert first - second in (0, 1)
        assert folds.search[own].sum() == min(count, 40)


def test_large_classes_are_thinned_and_many_classes_more() -> None:
    few = split_into_folds(np.repeat([0, 1], 1000), np.random.default_rng(0))
    assert (len(few.rows), few.confirm.sum(), few.search.sum()) == (800, 240, 80)
    many = split_into_folds(np.repeat(np.arange(100), 100), np.random.default_rng(0))
    assert (len(many.rows), many.confirm.sum(), many.search.sum()) == (6000, 2000, 1000)


def test_groups_are_fold_by_class_and_weigh_one_each() -> None:
    labels, fold = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 0, 1])
    groups = group_by_fold(labels, fold, classes=3)
    np.testing.assert_allclose(groups[:, 0], [0.5, 0.5, 0, 0, 0])
    np.testing.assert_allclose(groups[:, 4], [0, 0, 0, 0, 1])
    np.testing.assert_allclose(groups.sum(axis=0), [1, 1, 0, 1, 1, 0])
