"""How far two results are apart, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnx_soda._model.runtime import relative_difference, tolerance_of


@pytest.mark.parametrize(
    ("found", "wanted", "difference"),
    [
        ([1.0, -4.0], [1.0, -5.0], 0.2),  # 1 of 5
        ([0.5], [0.0], 0.5),  # nothing to relate to
        ([1.0, 2.0], [[1.0, 2.0]], math.inf),  # other shape
        ([1.0, math.nan], [1.0, 2.0], math.inf),
        ([1.0, 2.0], [1.0, math.nan], math.inf),
        ([math.inf, 2.0], [math.inf, 2.0], 0.0),
        ([math.inf, 2.0], [-math.inf, 2.0], math.inf),
        ([math.nan, 3.0], [math.nan, 2.0], 0.5),
        ([], [], 0.0),
    ],
)
def test_differences_are_shares_of_the_largest_value(
    found: list[float], wanted: list[float], difference: float
) -> None:
    assert relative_difference([np.array(found)], [np.array(wanted)]) == difference


def test_of_labels_the_share_that_differs_counts() -> None:
    assert relative_difference([np.array([1, 2, 3, 9])], [np.array([1, 2, 3, 4])]) == 0.25


def test_half_precision_may_round_more() -> None:
    assert tolerance_of([np.ones(1, np.float16)]) > tolerance_of([np.ones(1, np.float32)])
