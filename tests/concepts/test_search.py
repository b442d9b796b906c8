"""Scores worked out on paper, and a search on a net with a backdoor built in by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_soda.concepts.battery import concept_battery
from onnx_soda.concepts.score import (
    background,
    class_likeness,
    discount,
    pair_scores,
    usual_robustness,
)
from onnx_soda.concepts.search import half_membership

# Three classes that are nothing alike.
UNLIKE = np.eye(3)
# Model and two copies without a concept: every class errs by 0.02.
USUAL = np.stack([0.98 * np.eye(3) + 0.01 * (1 - np.eye(3))] * 3)


def test_the_score_of_a_pair_is_worked_out_on_paper() -> None:
    """Three classes, one copy. Under the concept the original sends 0.8 of class 0 to 2, the copy
    0.1: an excess of 0.7. Classes 1 and 2 err by 0.1 each, without the concept by 0.02; so the
    damage to the others of 0 is 0.08.
    Class 0 is usually as robust as they are (log-odds 0), so an error of 0.1 is expected of it, of
    which 0.08 / 0.98 beyond its usual 0.02.
    Class 1 sends 2 nothing: no spill. Score 0.7 (0.9 / 0.98)^2 - 0.08 = 0.510.
    For 1 -> 2: excess 0, damage (0.8 + 0.1) / 2 - 0.02 = 0.43; class 0 spills 0.7 into 2, 0.3 of
    that is 0.21. Score -0.43 - 0.21 = -0.64.
    """
    original = np.array([[0.2, 0, 0.8], [0.1, 0.9, 0], [0, 0.1, 0.9]])
    copy = np.array([[0.9, 0, 0.1], [0.1, 0.9, 0], [0, 0.1, 0.9]])
    flows = np.stack([original, copy])[None]
    scores = pair_scores(flows, USUAL[:2], UNLIKE, np.zeros(3))[0]
    assert scores[0, 2] == pytest.approx(0.7 * (0.9 / 0.98) ** 2 - 0.08)
    assert scores[1, 2] == pytest.approx(-0.64)
    assert scores.argmax() == 2
    assert (np.diag(scores) < -1).all()


def test_an_excess_is_over_the_copies_mean() -> None:
    """0.8 - (0.1 + 0.7) / 2 = 0.4; an error of 0 counts as 0.02, the finest rate: 0.4 0.98^2."""
    original = np.array([[0.2, 0.8], [0, 1]])
    copies = [np.array([[0.9, 0.1], [0, 1]]), np.array([[0.3, 0.7], [0, 1]])]
    flows = np.stack([original, *copies])[None]
    score = pair_scores(flows, np.stack([np.eye(2)] * 3), np.eye(2), np.zeros(2))[0, 0, 1]
    assert score == pytest.approx(0.4 * 0.98**2)


def test_a_class_that_always_errs_more_is_expected_to() -> None:
    """Under three concepts class 0 errs by 0.5 where the others err by 0.1: log(1) - log(1/9) =
    log 9 more in log-odds. A fourth concept, under which it alone errs, does not move the median.
    """
    flows = np.zeros((4, 1, 3, 3))
    for concept, error in enumerate((0.5, 0.5, 0.5, 0.9)):
        for label, rate in enumerate((error, 0.1, 0.1)):
            flows[concept, 0, label, label] = 1 - rate
    assert usual_robustness(flows)[0] == pytest.approx(np.log(9))


def test_what_spills_from_look_alikes_does_not_count() -> None:
    """Class 1 sends 2 as much as class 0 does; it counts unless it looks like class 0."""
    original = np.array([[0.2, 0, 0.8], [0, 0.2, 0.8], [0, 0, 1]])
    flows = np.stack([original, np.eye(3)])[None]
    alike = np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]])
    apart, close = (
        pair_scores(flows, USUAL[:2], likeness, np.zeros(3))[0, 0, 2]
        for likeness in (UNLIKE, alike)
    )
    assert close - apart == pytest.approx(0.3 * 0.8)


def test_look_alikes_are_discounted() -> None:
    likeness = np.array([[1, 0.25], [-0.5, 1]])
    scores = np.array([[-9, 0.4], [0.4, -9]])
    np.testing.assert_allclose(discount(scores, likeness), [[-9, 0.3], [0.4, -9]])


def test_the_background_is_the_best_pair_of_other_classes() -> None:
    """For 0 -> 1: not 0 -> 2 (same victim), not 2 -> 1 (same target), but 1 -> 2 or 2 -> 0."""
    scores = np.array([[-9, 0.5, 0.4], [0.1, -9, 0.2], [0.1, 0.3, -9]])
    assert background(scores, 0, 1) == pytest.approx(0.2)
    assert background(-np.abs(scores), 0, 1) == 0


def test_likeness_is_the_cosine_of_centred_class_means() -> None:
    """Means (2, 0), (0, 2), (0, 0) less their mean (2/3, 2/3): (4, -2), (-2, 4), (-2, -2) thirds.
    Cosine of the first two: (-8 - 8) / 20 = -0.8; class 3 has no images.
    """
    features = np.array([[2.0, 0], [0, 1], [0, 3], [0, 0]])
    likeness = class_likeness(features, np.array([0, 1, 1, 2]), classes=4)
    assert likeness[0, 1] == pytest.approx(-0.8)
    assert (likeness[3] == 0).all()


def test_the_battery_is_fixed_and_can_be_rendered_and_described() -> None:
    for channels in (1, 3):
        battery = concept_battery(channels)
        assert battery == concept_battery(channels)
        assert len({concept.describe() for concept in battery}) > 0.9 * len(battery)
        for concept in battery:
            concept.render((channels, 12, 12))


def test_halves_share_no_image_and_weigh_each_class_as_one() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 2])
    membership = half_membership(labels, classes=3)
    assert ((membership > 0).sum(axis=1) == 1).all()
    # Class 2 has one image: its scoring half is empty.
    np.testing.assert_allclose(membership.sum(axis=0), [1, 1, 1, 1, 1, 0])
