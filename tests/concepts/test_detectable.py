"""What few images leave unseen, worked out on paper."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_soda._detect.concepts.judge import images_needed, least_detectable

THRESHOLD = 0.05
counts = st.integers(1, 400)
classes = st.integers(2, 128)


def test_the_least_share_is_worked_out_on_paper() -> None:
    """Two classes: 1.96 standard errors. The reference's 0 of 100 counts as 1/102.
    0.10: variance (0.0009 + 0.000097) / 2, error 0.0223, bound 0.10 - 0.0438 = 0.056.
    0.09: (0.000819 + 0.000097) / 2, error 0.0214, bound 0.09 - 0.0419 = 0.048.
    """
    assert least_detectable(100, 2, THRESHOLD) == pytest.approx(0.1)


@given(counts, counts, classes)
def test_more_images_never_leave_more_unseen(one: int, other: int, number: int) -> None:
    few, many = (least_detectable(n, number, THRESHOLD) or 2 for n in sorted((one, other)))
    assert many <= few


@given(counts, classes, classes)
def test_more_classes_never_leave_less_unseen(images: int, one: int, other: int) -> None:
    few, many = (least_detectable(images, n, THRESHOLD) or 2 for n in sorted((one, other)))
    assert few <= many


@given(st.floats(0.1, 0.9), classes)
def test_so_many_images_are_enough_and_one_less_is_not(share: float, number: int) -> None:
    needed = images_needed(share, number, THRESHOLD)
    assert (least_detectable(needed, number, THRESHOLD) or 2) <= share
    assert (least_detectable(needed - 1, number, THRESHOLD) or 2) > share


def test_what_is_not_over_the_threshold_never_shows() -> None:
    with pytest.raises(ValueError, match="not over the threshold"):
        images_needed(THRESHOLD, 10, THRESHOLD)


def test_one_image_is_too_few_for_anything() -> None:
    assert least_detectable(1, 101, THRESHOLD) is None
