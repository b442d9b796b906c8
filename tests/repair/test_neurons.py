"""Outstanding neurons of the hand-computable head."""

from __future__ import annotations

import numpy as np

from onnx_soda._detect.soda.attribution import ClosedForm
from onnx_soda._options import Intervention
from onnx_soda._repair.masks import outstanding_neurons, responsibility

# Rows are neurons, columns classes; with a = b = 1 the attribution is |A|.
MATRIX = np.array([[1, -2, 3], [2, 4, 0], [-3, 6, 0]], np.float64)
FOUND = ClosedForm(MATRIX, {}, Intervention())


def test_responsibility_is_the_absolute_attribution_to_the_class() -> None:
    assert responsibility(FOUND, 0).tolist() == [1, 2, 3]
    assert responsibility(FOUND, 1).tolist() == [2, 4, 6]


def test_a_share_takes_the_most_responsible_ones() -> None:
    assert outstanding_neurons(FOUND, 1, top=0.67, threshold=2).tolist() == [1, 2]
    assert outstanding_neurons(FOUND, 2, top=0.01, threshold=2).tolist() == [0]


def test_without_a_share_outliers_are_taken() -> None:
    column = np.array([1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 9.0])
    found = ClosedForm(np.stack([column, column], axis=1), {}, Intervention())
    assert outstanding_neurons(found, 0, top=None, threshold=2).tolist() == [6]


def test_where_the_factor_is_not_one_source_classes_are_averaged() -> None:
    means = {0: np.array([0.0, 0.0, 0.0]), 1: np.array([1.0, 0.0, 0.0])}
    found = ClosedForm(MATRIX, means, Intervention(a=2, b=1))
    # do(x = 2x + 1) adds x + 1: neuron 0 by 1 for class 0's images and 2 for class 1's.
    assert responsibility(found, 2).tolist() == [(3 + 6) / 2, 0, 0]
