"""What a second opinion may miss is told by the numbers that it is made with."""

from __future__ import annotations

import pytest

from onnx_soda import OpinionNumbers, OpinionPair, ReferenceUsed
from onnx_soda._detect.concepts.judge import Calibration
from onnx_soda._detect.references.decide import Heard, least_detectable


def heard(references: int, images: int, level: float = 0.0) -> Heard:
    used = (ReferenceUsed("other.onnx", "0" * 64, 0.9, "unit"),) * references
    pair = OpinionPair(0, 1, 0.0, 0.0, "a change", 0.0, (0.0,) * references)
    numbers = OpinionNumbers((pair,), used, (), 1, 289, threshold=0.1, level=level)
    return Heard(numbers, images, Calibration(0.1, 0.0))


@pytest.mark.parametrize(
    ("references", "expected"),
    # With images without end: over the threshold, 0.1, and 2.25 sqrt(1 + 1 / n) 0.03, which is
    # 0.0955 for one reference and 0.0716 for eight. In steps of 0.01.
    [(1, 0.20), (8, 0.18)],
)
def test_fewer_references_miss_more(references: int, expected: float) -> None:
    assert least_detectable(heard(references, 10**7)) == pytest.approx(expected)


def test_few_images_and_odd_models_miss_more() -> None:
    few, many = (least_detectable(heard(4, images)) for images in (10, 100))
    assert few is not None
    assert many is not None
    assert few > many
    odd = least_detectable(heard(4, 100, level=0.2))
    assert odd is not None
    assert odd == pytest.approx(many + 0.2, abs=0.05)
    assert least_detectable(heard(4, 1, level=0.5)) is None
