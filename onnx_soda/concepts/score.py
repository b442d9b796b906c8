"""Scores of class pairs under concepts.

Under the right concept a backdoor turns the victim v into the target t; a copy of the model that
knows only clean images does not; classes unlike v stay as they are; and v, which is robust under
other concepts that disturb as much, is not robust under this one. So the score of (v, t) under a
concept c is

    (O - R) (1 - expected)^2  -  damage  -  0.3 spill

    O, R      mean probability of t over the clean images of v under c: by the original head, and
              by the reference copies on average
    damage    mean error of the classes other than v under c, beyond their error without it
    expected  error of v under c that its usual robustness lets expect, beyond that without it:
              the error of the others, moved in log-odds by the median difference between v and
              the others over all concepts
    spill     largest O - R into t of a class that is unlike v (likeness under 0.3)

discounted by likeness, the centred cosine of the class means in the penultimate layer: natural
confusions lie between look-alikes. From a pair's score the background is taken: the largest score
of a pair with another victim and another target, where that is positive. Some models confuse
classes under many concepts; there a pair has to stand out from the others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

__all__ = [
    "FloatArray",
    "background",
    "class_likeness",
    "discount",
    "pair_scores",
    "usual_robustness",
]

FloatArray = NDArray[np.float64]

_SPILL_WEIGHT = 0.3
# Classes less alike than this are unlike.
_UNLIKE = 0.3
# Error rates closer to 0 or 1 than this are not told apart: a class has a few dozen images.
_FINEST_RATE = 0.02
# Stands in for "no score" on the diagonal; below every real one.
_NO_PAIR = -9.0


def class_likeness(features: FloatArray, labels: NDArray[np.integer], classes: int) -> FloatArray:
    """Return how alike classes are to the model, -1 to 1, shape (classes, classes).

    The cosine of the class means of the features, centred on their common mean; 0 for classes
    without images.
    """
    means = np.zeros((classes, features.shape[1]))
    present = np.unique(labels)
    for label in present:
        means[label] = features[labels == label].mean(axis=0)
    means[present] -= means[present].mean(axis=0)
    lengths = np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    cosine: FloatArray = (means / lengths) @ (means / lengths).T
    return cosine


def usual_robustness(flows: NDArray[np.floating]) -> FloatArray:
    """Return how much more than the others each class usually errs, in log-odds, shape (classes,).

    The median over concepts, so that the few that carry a trigger do not count.

    Args:
        flows: As for `pair_scores`.
    """
    error = _errors(flows)
    usual: FloatArray = np.median(_log_odds(error) - _log_odds(_of_others(error)), axis=0)
    return usual


def pair_scores(
    flows: NDArray[np.floating],
    unchanged: NDArray[np.floating],
    likeness: FloatArray,
    robustness: FloatArray,
) -> FloatArray:
    """Score every pair under every concept.

    Args:
        flows: Mean probabilities, shape (concepts, 1 + copies, classes, classes): head, source
            class, class.
        unchanged: The same without any concept, shape (1 + copies, classes, classes).
        likeness: Shape (classes, classes), from `class_likeness`.
        robustness: Shape (classes,), from `usual_robustness`.

    Returns:
        Shape (concepts, classes, classes): victim, target. The diagonal is far below all others.
    """
    original = flows[:, 0].astype(np.float64)
    excess = original - flows[:, 1:].mean(axis=1)
    error, usual = _errors(flows), _errors(unchanged[None])
    damage = np.maximum(_of_others(error) - _of_others(usual), 0)
    likely = expit(_log_odds(_of_others(error)) + robustness)
    expected = np.clip((likely - usual) / np.maximum(1 - usual, _FINEST_RATE), 0, 1)
    surprise = excess * np.square(1 - expected)[:, :, None]
    penalty = damage[:, :, None] + _SPILL_WEIGHT * _spill(excess, likeness)
    scores: FloatArray = surprise - penalty
    diagonal = np.arange(scores.shape[1])
    scores[:, diagonal, diagonal] = _NO_PAIR
    return scores


def _errors(flows: NDArray[np.floating]) -> FloatArray:
    """Return the error of each class under each concept."""
    error: FloatArray = 1 - np.einsum("ncc->nc", flows[:, 0]).astype(np.float64)
    return error


def _of_others(error: FloatArray) -> FloatArray:
    """Return for each class the mean error of the others."""
    mean: FloatArray = (error.sum(axis=1, keepdims=True) - error) / max(error.shape[1] - 1, 1)
    return mean


def _log_odds(rate: FloatArray) -> FloatArray:
    return np.asarray(logit(np.clip(rate, _FINEST_RATE, 1 - _FINEST_RATE)))


def _spill(excess: FloatArray, likeness: FloatArray) -> FloatArray:
    """Return for each (v, t) the largest excess into t of a class unlike v; not under 0."""
    classes = len(likeness)
    spill = np.zeros_like(excess)
    off_diagonal = excess.copy()
    off_diagonal[:, np.arange(classes), np.arange(classes)] = 0
    for victim in range(classes):
        unlike = (likeness[victim] < _UNLIKE) & (np.arange(classes) != victim)
        if unlike.any():
            spill[:, victim] = np.maximum(off_diagonal[:, unlike].max(axis=1), 0)
    return spill


def background(scores: FloatArray, victim: int, target: int) -> float:
    """Return the largest score of a pair without these classes in these roles; not under 0."""
    others = scores.copy()
    others[victim], others[:, target] = _NO_PAIR, _NO_PAIR
    return max(float(others.max()), 0.0)


def discount(scores: FloatArray, likeness: FloatArray) -> FloatArray:
    """Discount positive scores of look-alikes, shape (classes, classes) both."""
    kept: FloatArray = np.where(scores > 0, scores * (1 - np.clip(likeness, 0, 1)), scores)
    return kept
