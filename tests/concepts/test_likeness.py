"""How alike classes are, and which of many are of one kind."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_soda._detect.concepts.likeness import class_likeness, kinds_of, model_likeness


def test_likeness_is_the_cosine_of_centred_class_means() -> None:
    """Means (2, 0), (0, 2), (0, 0) less their mean (2/3, 2/3): (4, -2), (-2, 4), (-2, -2) thirds.
    Cosine of the first two: (-8 - 8) / 20 = -0.8; class 3 has no images.
    """
    features = np.array([[2.0, 0], [0, 1], [0, 3], [0, 0]])
    likeness = class_likeness(features, np.array([0, 1, 1, 2]), classes=4)
    assert likeness[0, 1] == pytest.approx(-0.8)
    assert (likeness[3] == 0).all()


@pytest.mark.parametrize(("fewest", "alike"), [(99, 1.0), (100, -1.0)])
def test_a_pressed_last_layer_makes_nobody_look_alike_to_a_reference_that_knows_the_classes(
    fewest: int, alike: float
) -> None:
    """Last: 0 and 1 at (1, 0), 2 at (-2, 0). Earliest: at (0, 1), (0, -1) and (0, 0)."""
    labels = np.array([0, 1, 2])
    last = np.array([[1.0, 0], [1, 0], [-2, 0]])
    earliest = np.array([[0.0, 1], [0, -1], [0, 0]])
    likeness = model_likeness([last, last, earliest], labels, 3, fewest)
    assert likeness[0, 1] == pytest.approx(alike)


def test_classes_of_one_kind_are_compared_among_themselves() -> None:
    """0 and 1 at (9, 1) and (9, -1), 2 and 3 at (-9, 1) and (-9, -1). Beside 2 and 3, 0 and 1 look
    the same: (81 - 1) / 82. Among themselves they are opposites."""
    features = np.array([[9.0, 1], [9, -1], [-9, 1], [-9, -1]])
    labels = np.arange(4)
    assert class_likeness(features, labels, 4)[0, 1] == pytest.approx(80 / 82)
    likeness = class_likeness(features, labels, 4, kinds=np.array([0, 0, 1, 1]))
    assert likeness[0, 1] == pytest.approx(-1)
    assert likeness[0, 2] == pytest.approx(-80 / 82)


def test_many_classes_are_sorted_into_kinds() -> None:
    """Ten places far apart, 16 classes around each: 160 classes in 10 kinds of 16."""
    rng = np.random.default_rng(0)
    places = np.repeat(10 * np.eye(10), 16, axis=0)
    kinds = kinds_of(places + rng.normal(size=places.shape), np.arange(160), 160)
    assert kinds is not None
    assert all(len(set(own)) == 1 for own in kinds.reshape(10, 16))
    assert len(set(kinds.tolist())) == 10


def test_classes_without_images_are_of_no_kind() -> None:
    features = np.random.default_rng(0).normal(size=(140, 8))
    kinds = kinds_of(features, np.arange(140), 142)
    assert kinds is not None
    assert kinds[140] != kinds[141]
    assert not {kinds[140], kinds[141]} & set(kinds[:140].tolist())


def test_as_many_classes_as_the_calibration_had_are_of_one_kind() -> None:
    features = np.random.default_rng(0).normal(size=(128, 8))
    assert kinds_of(features, np.arange(128), 1000) is None
