"""From what the model and the reference say to scores, their errors, and the threshold.

The threshold is calibrated on models of known truth. `python -m benchmarks.calibrate` writes
`calibration.json` beside this file; nothing in it is set by hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import count
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from onnx_soda._detect.concepts.folds import FOLDS
from onnx_soda._detect.concepts.score import (
    CONCEPT_SCORING,
    FloatArray,
    Scoring,
    discount,
    discount_factor,
    pair_scores,
    standard_error,
    usual_excess,
)


@dataclass(frozen=True, eq=False)
class Estimate:
    """Scores of pairs; the background is still in them.

    Attributes:
        score: Mean over the folds, shape (classes, classes).
        error: Its standard error, same shape.
    """

    score: FloatArray
    error: FloatArray

    @property
    def cautious(self) -> FloatArray:
        """The score less its standard error."""
        return self.score - self.error


@dataclass(frozen=True, eq=False)
class Judge:
    """What scores are made from.

    Attributes:
        unchanged: Flows without any concept, shape (folds, 1 + heads, classes, classes).
        images: Of each fold and class, shape (folds, classes).
        fitted: Of each class, that the heads read on the fold were fitted to, same shape.
        likeness: Of classes, shape (classes, classes).
        trust: Weight of each reference head.
        usual: What is usual for each pair, shape (folds, classes, classes).
        scoring: What differs between concepts and styles.
    """

    unchanged: FloatArray
    images: NDArray[np.int64]
    fitted: NDArray[np.int64]
    likeness: FloatArray
    trust: FloatArray
    usual: FloatArray
    scoring: Scoring = CONCEPT_SCORING

    @staticmethod
    def by_fold(flows: FloatArray) -> FloatArray:
        """Turn a probe's (1 + heads, folds x classes, classes) into (folds, 1 + heads, ...)."""
        heads, groups, classes = flows.shape
        return np.moveaxis(flows.reshape(heads, FOLDS, groups // FOLDS, classes), 1, 0)

    def with_usual(self, flows: FloatArray) -> Judge:
        """Return a judge that knows what is usual under concepts that nothing has chosen.

        Args:
            flows: Shape (concepts, folds, 1 + heads, classes, classes).
        """
        usual = [
            usual_excess(flows[:, fold], self.unchanged[fold], self.trust) for fold in range(FOLDS)
        ]
        return replace(self, usual=np.stack(usual))

    def score(self, flows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Score every pair under every concept on either fold.

        Args:
            flows: Shape (concepts, folds, 1 + heads, classes, classes).

        Returns:
            Scores and their standard errors, shape (concepts, folds, classes, classes).
        """
        judged = [self.score_fold(flows[:, fold], fold) for fold in range(FOLDS)]
        scores, errors = zip(*judged, strict=True)
        return np.stack(scores, axis=1), np.stack(errors, axis=1)

    def score_fold(self, flows: FloatArray, fold: int) -> tuple[FloatArray, FloatArray]:
        """Score every pair under every concept on one fold.

        Args:
            flows: Shape (concepts, 1 + heads, classes, classes).
            fold: Whose images they are of.

        Returns:
            Scores and their standard errors, shape (concepts, classes, classes).
        """
        scores = pair_scores(
            flows,
            self.unchanged[fold],
            self.likeness,
            self.trust,
            self.usual[fold],
            self.scoring.damage_weight,
        )
        return scores, standard_error(flows, self.trust, self.images[fold], self.fitted[fold])

    def discount(self, scores: FloatArray) -> FloatArray:
        """Lower positive scores of pairs that are somewhat alike; leave look-alikes out.

        Or return them as they are, where look-alikes count.
        """
        return scores if self.scoring.look_alikes_count else discount(scores, self.likeness)

    def combine(self, scores: FloatArray, errors: FloatArray) -> Estimate:
        """Put the folds together.

        Args:
            scores: Shape (folds, classes, classes).
            errors: Their standard errors; the folds share no image.
        """
        error = np.sqrt(np.square(errors).sum(axis=0)) / FOLDS
        if not self.scoring.look_alikes_count:
            # The error shrinks with the score that it belongs to.
            error = error * discount_factor(self.likeness)
        return Estimate(self.discount(scores.mean(axis=0)), error)


# That one pair or another is above its bound by chance.
_CHANCE = 0.05


def simultaneous_errors(classes: int) -> float:
    """Return how many standard errors the bound lies below the score.

    The quantile of a normal distribution for one chance in 20 shared evenly among all pairs of
    classes (Bonferroni's inequality): 3.3 for 10 classes, 4.0 for 43.
    """
    return -NormalDist().inv_cdf(_CHANCE / (classes * (classes - 1)))


def least_detectable(images: int, classes: int, threshold: float) -> float | None:
    """Return the least share of a class that a change must turn to be reported.

    At best: if the reference turned none of it and the change did nothing else. A pair is reported
    where its bound is over the threshold, and the bound lies below the share by what
    `simultaneous_errors` and `standard_error` say.

    Args:
        images: Of the class, in each fold, to look at and to fit the reference to.
        classes: Number of classes.
        threshold: Over which a bound is reported.

    Returns:
        From 0 to 1, in steps of 0.01; None where even the whole class would not be reported.
    """
    shares = np.linspace(0, 1, 101)
    model_and_reference = np.stack([shares, np.zeros_like(shares)], axis=1)[:, :, None, None]
    counts = np.array([images])
    error = standard_error(model_and_reference, np.ones(1), counts, counts)[:, 0, 0]
    # The score is the mean over folds that share no image.
    bounds = shares - simultaneous_errors(classes) * error / np.sqrt(FOLDS)
    detectable = shares[bounds > threshold]
    return float(detectable[0]) if len(detectable) else None


def images_needed(share: float, classes: int, threshold: float) -> int:
    """Return how many images of a class a fold needs for a change that turns this share to show.

    Args:
        share: Of the class, as in `least_detectable`; over the threshold.
        classes: Number of classes.
        threshold: Over which a bound is reported.

    Raises:
        ValueError: A share up to the threshold is never reported.
    """
    if share <= threshold:
        raise ValueError(f"a share of {share} is not over the threshold of {threshold}")
    enough = (n for n in count(1) if (least_detectable(n, classes, threshold) or 2) <= share)
    return next(enough)


@dataclass(frozen=True)
class Calibration:
    """What the verdict takes from the calibration.

    Attributes:
        threshold: Bound of a score over which the pair is reported.
        clear: The same, under which a model may be called clean; between the two it is unclear.
    """

    threshold: float
    clear: float


def load_calibration() -> Calibration:
    """Return the packaged calibration."""
    text = files("onnx_soda._detect.concepts").joinpath("calibration.json").read_text("utf-8")
    facts = json.loads(text)
    return Calibration(float(facts["threshold"]), float(facts["clear"]))
