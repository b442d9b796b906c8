"""Scores of class pairs under concepts.

For a concept, a backdoor turns the victim into the target in the original head, in no reference
head, and leaves the other classes alone. So the score of the pair (v, t) under a concept is

    O[v, t] - max over copies R[v, t]  -  damage / 2  -  specificity

with O and R the mean probabilities of t over the clean images of v under the concept, in the
original head and in the copies; damage the mean error of the other classes under the concept; and
specificity a share of the largest such excess that another class sends to t. Found in trials:
without the damage, natural confusions under strong concepts come out on top; with the copies'
mean in the place of their maximum, confusions on which the copies themselves differ do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["pair_scores"]

FloatArray = NDArray[np.float64]

_DAMAGE_WEIGHT = 0.5
_SPECIFICITY_WEIGHT = 0.3
# Stands in for "no score" on the diagonal; below every real one.
_NO_PAIR = -9.0


def pair_scores(flows: FloatArray) -> FloatArray:
    """Score every pair under one concept.

    Args:
        flows: Mean probabilities, shape (1 + copies, classes, classes): head, source class, class.

    Returns:
        Shape (classes, classes): victim, target. The diagonal is far below all others.
    """
    original, copies = flows[0], flows[1:]
    classes = len(original)
    excess = original - copies.max(axis=0)
    error = 1 - np.diag(original)
    damage = (error.sum() - error) / max(classes - 1, 1)
    others = _largest_of_the_others(excess)
    scores: FloatArray = (
        excess - _DAMAGE_WEIGHT * damage[:, None] - _SPECIFICITY_WEIGHT * np.maximum(others, 0)
    )
    np.fill_diagonal(scores, _NO_PAIR)
    return scores


def _largest_of_the_others(excess: FloatArray) -> FloatArray:
    """Return for each (v, t) the largest excess that a class other than v and t sends to t."""
    masked = excess.copy()
    np.fill_diagonal(masked, _NO_PAIR)
    order = np.sort(masked, axis=0)
    largest, second = order[-1], order[-2] if len(order) > 1 else order[-1]
    others: FloatArray = np.where(masked == largest, second, largest)
    return others
