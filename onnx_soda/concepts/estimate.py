"""From flows on two folds of images to scores of pairs, each with its standard error."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnx_soda.concepts.folds import FOLDS
from onnx_soda.concepts.score import (
    CONCEPT_SCORING,
    FloatArray,
    Scoring,
    discount,
    discount_factor,
    pair_scores,
    standard_error,
    usual_excess,
)

__all__ = ["Estimate", "Judge"]


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
        scores, errors = [], []
        for fold in range(FOLDS):
            own = flows[:, fold]
            scores.append(
                pair_scores(
                    own,
                    self.unchanged[fold],
                    self.likeness,
                    self.trust,
                    self.usual[fold],
                    self.scoring.damage_weight,
                )
            )
            errors.append(standard_error(own, self.trust, self.images[fold], self.fitted[fold]))
        return np.stack(scores, axis=1), np.stack(errors, axis=1)

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
