"""Labels in the forms they are stored in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_soda._data.splits import as_labels
from onnx_soda._errors import LabelError

EXPECTED = [0, 2, 1, 2]


@pytest.mark.parametrize(
    "stored",
    [
        *(np.array(EXPECTED, dtype=kind) for kind in ("u1", "i2", ">i4", "u8", "f2", "f4", "f8")),
        np.array(EXPECTED)[:, None],
        np.eye(3)[EXPECTED],
        np.eye(3, dtype=np.uint8)[EXPECTED],
        np.eye(3, dtype=bool)[EXPECTED],
    ],
)
def test_usual_forms(stored: NDArray[Any]) -> None:
    labels = as_labels(stored, 4, "labels")
    assert labels.tolist() == EXPECTED
    assert labels.dtype == np.int64


def test_labels_of_two_classes_as_truth_values() -> None:
    assert as_labels(np.array([True, False]), 2, "labels").tolist() == [1, 0]


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (np.array([0, 1, -1, 2]), "label 2 is -1"),
        (np.array([0, 1, 1.5, 2]), "label 2 is 1.5"),
        (np.array([0, np.nan, 1, 2]), "label 1 is nan"),
        (np.array([0, np.inf, 1, 2]), "label 1 is inf"),
        (np.array([0, 1, 2, 2**63], dtype=np.uint64), "label 3 is 9223372036854775808"),
        (np.array([0.0, 1, 2, 1e300]), "label 3 is 1e\\+300"),
        (np.array(["a", "b", "c", "d"]), "elements of type <U1"),
        (np.array([0, 1, 2]), "3 labels for 4 images"),
        (np.zeros((4, 2, 2)), "in 3 dimensions"),
        (np.array([[0, 1], [1, 1], [1, 0], [0, 0]]), "row 1 is not one-hot"),
        (np.array([[0.1, 0.9]] * 4), "row 0 is not one-hot"),
        (np.zeros((4, 0)), "row 0 is not one-hot"),
    ],
)
def test_what_is_no_label(stored: NDArray[Any], message: str) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        as_labels(stored, 4, "labels")
    assert caught.value.advice
