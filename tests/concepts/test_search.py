"""Scores worked out on paper, and a search on a net with a backdoor built in by hand."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_soda.concepts.score import pair_scores
from onnx_soda.concepts.search import half_membership


def test_the_score_of_a_pair_is_worked_out_on_paper() -> None:
    """Three classes, one copy. Under the concept the original sends 0.8 of class 0 to 2, the copy
    0.1; classes 1 and 2 keep 0.9 each, the copy the same. Excess of 0 -> 2: 0.7. Damage to the
    others: their errors 0.1 and 0.1, mean 0.1, half of it 0.05. Class 1 sends 2 an excess of 0.
    Score 0.65. For 1 -> 2: excess 0, damage (0.8 + 0.1) / 2 = 0.45, half 0.225; class 0 sends 2
    an excess of 0.7, 0.3 of that 0.21. Score -0.435.
    """
    original = np.array([[0.2, 0, 0.8], [0.1, 0.9, 0], [0, 0.1, 0.9]])
    copy = np.array([[0.9, 0, 0.1], [0.1, 0.9, 0], [0, 0.1, 0.9]])
    scores = pair_scores(np.stack([original, copy]))
    assert scores[0, 2] == pytest.approx(0.65)
    assert scores[1, 2] == pytest.approx(-0.435)
    assert scores.argmax() == 2
    assert (np.diag(scores) < -1).all()


def test_what_one_copy_does_too_is_no_excess() -> None:
    """Of two copies the one that sends most counts: 0.8 - max(0.1, 0.7) = 0.1, damage 0."""
    original = np.array([[0.2, 0.8], [0, 1]])
    copies = [np.array([[0.9, 0.1], [0, 1]]), np.array([[0.3, 0.7], [0, 1]])]
    assert pair_scores(np.stack([original, *copies]))[0, 1] == pytest.approx(0.1)


def test_halves_share_no_image_and_weigh_each_class_as_one() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 1, 2])
    membership = half_membership(labels, classes=3)
    assert ((membership > 0).sum(axis=1) == 1).all()
    # Class 2 has one image: its scoring half is empty.
    np.testing.assert_allclose(membership.sum(axis=0), [1, 1, 1, 1, 1, 0])
