"""What few images leave unseen, worked out on paper."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_soda.concepts.detectable import least_detectable

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


def test_one_image_is_too_few_for_anything() -> None:
    assert least_detectable(1, 101, THRESHOLD) is None
