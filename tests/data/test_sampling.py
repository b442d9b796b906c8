"""Balanced samples, and labels against the model's classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_soda._data.splits import balanced_sample, check_labels
from onnx_soda._errors import LabelError


@given(st.lists(st.integers(0, 6), max_size=80), st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_a_sample_is_balanced_sorted_and_repeatable(
    labels: list[int], per_class: int, seed: int
) -> None:
    stored = np.array(labels, dtype=np.int64)
    sample = balanced_sample(stored, 5, per_class, np.random.default_rng(seed))
    assert np.all(np.diff(sample) > 0)
    have = np.bincount(stored, minlength=7)[:5]
    assert np.array_equal(np.bincount(stored[sample], minlength=5), np.minimum(have, per_class))
    again = balanced_sample(stored, 5, per_class, np.random.default_rng(seed))
    assert np.array_equal(sample, again)


def test_another_seed_gives_another_sample() -> None:
    labels = np.zeros(1000, dtype=np.int64)
    first, second = (balanced_sample(labels, 1, 10, np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_labels_outside_the_classes_are_listed() -> None:
    with pytest.raises(LabelError, match=r"outside the model's classes 0\.\.2: 3, 7$"):
        check_labels(np.array([0, 1, 2, 3, 7, 7]), 3)


def test_many_labels_outside_are_counted() -> None:
    with pytest.raises(LabelError, match="and 32 more"):
        check_labels(np.arange(43), 3)


def test_classes_without_images_are_named() -> None:
    labels = np.array([0, 0, 2])
    with pytest.raises(LabelError, match=r"classes without images: 1 \(dog\), 3$"):
        check_labels(labels, 4, ("cat", "dog", "eel"))
    check_labels(labels, 4, allow_missing=True)


def test_good_labels_pass() -> None:
    check_labels(np.array([2, 0, 1]), 3, ("cat", "dog", "eel"))
