"""The worked examples of the paper, sections 3.2.1 and 3.2.2."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_soda._detect.soda.statistic import (
    anomaly_index,
    detect_victim,
    judge_pcc,
    judge_target_logits,
)

# Example 3.2: PCC of prediction classes 0 to 9 of the running example (8 on blue becomes 3).
EXAMPLE_3_2 = np.array([0.69, 0.64, 0.72, 0.45, 0.71, 0.69, 0.67, 0.74, 0.60, 0.66])
# Example 3.3: logit of target 3 with clean images of each other class.
EXAMPLE_3_3 = dict(
    zip(
        [0, 1, 2, 4, 5, 6, 7, 8, 9],
        [-1.37, -2.12, 0.24, -2.55, 1.08, -2.27, -0.29, 1.67, -1.11],
        strict=True,
    )
)


@pytest.mark.parametrize(("spread", "index"), [("median", -4.43), ("mean", -2.93)])
def test_example_3_2_flags_class_3_alone(spread: str, index: float) -> None:
    """Median 0.68; 3 deviates by 0.23; median deviation 0.035, mean deviation 0.053."""
    found = judge_pcc(EXAMPLE_3_2, spread=spread)
    assert found.flagged == (3,)
    assert found.index[3] == pytest.approx(index, abs=0.01)


@pytest.mark.parametrize(("spread", "index"), [("median", 1.62), ("mean", 1.53)])
def test_example_3_3_names_class_8_on_weaker_evidence(spread: str, index: float) -> None:
    """Median -1.11; 8 deviates by 2.78; median deviation 1.16, mean deviation 11.01 / 9.

    2.78 / (1.4826 x 1.16) = 1.616 and 2.78 / (1.4826 x 1.2233) = 1.533: under 2 both ways, so the
    largest is taken and marked as weaker.
    """
    found = judge_target_logits(3, EXAMPLE_3_3, spread=spread)
    assert found.victim_class == 8
    assert found.index == pytest.approx(index, abs=0.005)
    assert not found.strong


def test_the_toolkits_zero_for_the_target_itself_moves_the_median() -> None:
    """With a 0 for class 3 the median is -0.70, the median deviation 1.18: 2.37 / 1.7495."""
    found = judge_target_logits(3, EXAMPLE_3_3, zero_for_target=True)
    assert found.victim_class == 8
    assert found.index == pytest.approx(1.355, abs=0.001)


def test_naturally_similar_classes_are_filtered_out() -> None:
    """Target 0 is near to victim 1 and to look-alike 2; only the look-alike's relation is mutual.

    Mean logit of 0 by source 1..6: 9, 10, 0, 1, -1, 0. Both 1 and 2 are abnormal. Images of 0 give
    class 2 a 10 against -1..1 elsewhere (mutual), class 1 a 0 (not mutual).
    """
    means = {
        0: np.array([20.0, 0, 10, 0, 0, 0, 0]),
        1: np.array([9.0, 20, 1, 0, 0, 0, 0]),
        2: np.array([10.0, 1, 20, 0, 0, 0, 0]),
        3: np.array([0.0, -1, 0, 20, 0, 0, 0]),
        4: np.array([1.0, 1, -1, 0, 20, 0, 0]),
        5: np.array([-1.0, 0, 1, 0, 0, 20, 0]),
        6: np.array([0.0, -1, 0, 0, 0, 0, 20]),
    }
    found = detect_victim(0, means)
    assert found.victim_class == 1
    assert found.similar == (2,)
    assert found.strong


def test_equal_points_have_no_outlier() -> None:
    np.testing.assert_array_equal(anomaly_index([2.0, 2.0, 2.0]), [0, 0, 0])


def test_one_point_apart_from_equal_ones_is_an_outlier() -> None:
    """Deviations 0, 0, 0, 0, 5: the median is 0, so the mean, 1, stands in (x 1.2533)."""
    index = anomaly_index([1.0, 1.0, 1.0, 1.0, 6.0])
    assert index[4] == pytest.approx(5 / 1.253314)
    np.testing.assert_array_equal(index[:4], 0)
