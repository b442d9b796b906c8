"""DFR, deep feature reweighting (Kirichenko, Izmailov and Wilson, ICLR 2023).

What a network has learned of clean features is enough; only its last layer weighs them wrongly. So
the last layer is fitted anew on clean images: a convex problem with one optimum, which L-BFGS
finds. Features come from ONNX Runtime, and no torch is needed.

Parameters:

- "paper" (github.com/PolinaKirichenko/deep_feature_reweighting): features are standardised; the
  strength C of logistic regression is one of 1, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01, that with the best
  accuracy of the worst group on half of the images; ten fits on draws with as many images of each
  group, averaged. Groups are classes here: a backdoor's pair is not known. The penalty is that of
  L2, where the paper has L1: with it the optimum is unique. Where classes have equally many images
  all draws are the same, and one fit does.
- "published" (github.com/sunbing7/SODA, semantic_mitigation.py): no standardisation, no choice,
  weight decay of 1e-4. It averages ten heads of four epochs of SGD, each on another 5 % of the
  training images. A defender has such 5 % once, which are the clean set, so that here it is one fit
  on all, and the optimum in place of four epochs.

With d images sklearn's C is a penalty of 1 / (2 C d) on the squared length of the matrix beside the
mean cross-entropy, and weight decay one of half its rate. The offset is free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from onnx_soda._repair.base import Removal
from onnx_soda._repair.baselines.base import Rival, clean_of, share_right
from onnx_soda._repair.baselines.heads import Affine, Matrix, features_of, find_head
from onnx_soda._repair.preparation import ImageSet, Preparation

Labels = NDArray[np.int64]

# As above.
_STRENGTHS = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
_DRAWS, _DECAY = 10, 1e-4
# L-BFGS ends where no slope is larger, or after so many steps. Pairs of steps and slopes that it
# keeps: more than usual, since a step costs nothing here.
_SLOPE, _STEPS, _KEPT = 1e-8, 5000, 30
# Slope of an optimum; what is left above is told.
OPTIMAL = 1e-6
# Keeps a feature that is the same for all images from being divided by 0.
_LEAST_SPREAD = 1e-8


@dataclass(frozen=True, eq=False)
class Fit:
    """A softmax regression.

    Attributes:
        affine: Matrix and offset.
        slope: Length of the gradient there.
    """

    affine: Affine
    slope: float


def fit_softmax(
    features: Matrix, labels: Labels, classes: int, penalty: float, offset: bool = True
) -> Fit:
    """Minimise the mean cross-entropy plus penalty |matrix|^2.

    Args:
        features: Shape (images, features).
        labels: Classes, shape (images,).
        classes: Number of classes.
        penalty: Over 0; the optimum is unique then, but for a constant in the offset.
        offset: Fit an offset as well; it is 0 otherwise.
    """
    count, width = features.shape
    truth = np.eye(classes)[labels]

    def split(flat: Matrix) -> Affine:
        matrix = flat[: classes * width].reshape(classes, width)
        return Affine(matrix, flat[classes * width :] if offset else np.zeros(classes))

    def loss(flat: Matrix) -> tuple[float, Matrix]:
        affine = split(flat)
        scores = affine.logits(features)
        value = (logsumexp(scores, axis=1) - (scores * truth).sum(axis=1)).mean()
        wrong = (softmax(scores, axis=1) - truth) / count
        slope = (wrong.T @ features + 2 * penalty * affine.matrix).ravel()
        if offset:
            slope = np.concatenate([slope, wrong.sum(axis=0)])
        return float(value + penalty * np.square(affine.matrix).sum()), slope

    start = np.zeros(classes * width + (classes if offset else 0))
    ends = {"gtol": _SLOPE, "ftol": 0.0, "maxiter": _STEPS, "maxfun": 2 * _STEPS, "maxcor": _KEPT}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=ends)
    return Fit(split(found.x), float(np.linalg.norm(loss(found.x)[1])))


def fit_standardised(
    features: Matrix, labels: Labels, classes: int, strength: float, offset: bool = True
) -> Fit:
    """Fit with standardised features; matrix and offset are for the features as they are.

    Args:
        features: Shape (images, features).
        labels: Classes.
        classes: Number of classes.
        strength: sklearn's C.
        offset: There is an offset. Without one the mean cannot be taken away.
    """
    mean = features.mean(axis=0) if offset else np.zeros(features.shape[1])
    spread = np.maximum(features.std(axis=0), _LEAST_SPREAD)
    penalty = 1 / (2 * strength * len(labels))
    fit = fit_softmax((features - mean) / spread, labels, classes, penalty, offset)
    matrix = fit.affine.matrix / spread
    return Fit(Affine(matrix, fit.affine.offset - matrix @ mean), fit.slope)


def averaged(fits: Sequence[Fit]) -> Fit:
    """Return the mean of matrices and offsets, with the largest slope."""
    matrix = np.mean([fit.affine.matrix for fit in fits], axis=0)
    offset = np.mean([fit.affine.offset for fit in fits], axis=0)
    return Fit(Affine(matrix, offset), max(fit.slope for fit in fits))


def balanced_draws(labels: Labels, draws: int) -> Iterator[NDArray[np.intp]]:
    """Yield rows with as many images of each class as the rarest has; once where all are equal.

    Args:
        labels: Classes of the images.
        draws: How often.
    """
    counts = np.bincount(labels)
    fewest = counts[counts > 0].min()
    rng = np.random.default_rng(0)
    for _ in range(1 if counts.max() == fewest else draws):
        own = [rng.permutation(np.flatnonzero(labels == one))[:fewest] for one in np.unique(labels)]
        yield np.sort(np.concatenate(own))


def worst_class(scores: Matrix, labels: Labels) -> float:
    """Return the accuracy of the class that is read worst."""
    return min(share_right(scores[labels == one], labels[labels == one]) for one in set(labels))


class DfrRemover(Rival):
    """Fits the last layer anew on clean images."""

    name: ClassVar[str] = "dfr"
    title: ClassVar[str] = "DFR"
    source: ClassVar[str] = "Kirichenko et al., ICLR 2023"
    trains: ClassVar[str] = "head"

    def __init__(self, ready: Preparation) -> None:
        super().__init__(ready)
        self.head = find_head(ready, "DFR fits")

    def remove(self, folds: Sequence[ImageSet]) -> Removal:
        """Fit on all folds, if a fit on all but the last keeps the accuracy of that one.

        See `Remover.remove`.
        """
        every, held = clean_of(folds), len(folds[-1].labels)
        features, labels = features_of(self.ready, every), every.labels
        taught, judging = slice(-held), slice(-held, None)
        right = partial(share_right, labels=labels[judging])
        judged = self.judged(right(self.head.affine.logits(features[judging])))
        strength = self._strength(features[taught], labels[taught])
        trial = self._fit(features[taught], labels[taught], strength)
        accuracy = right(trial.affine.logits(features[judging]))
        self.tell(1, 2)
        if not judged.allows(accuracy):
            return self.failed(replace(judged, best=accuracy))
        fit = self._fit(features, labels, strength)
        self.tell(2, 2)
        notes = [] if strength is None else [f"Of the strengths C it takes {strength:g}."]
        if fit.slope > OPTIMAL:
            notes.append(f"The fit ended before its optimum, at a slope of {fit.slope:.1e}.")
        return Removal(self.head.with_affine(fit.affine), notes=self.told(*notes))

    def _strength(self, features: Matrix, labels: Labels) -> float | None:
        """Return the strength that reads the worst class best; None where none is chosen."""
        if self.published:
            return None
        order = np.random.default_rng(0).permutation(len(labels))
        fitted, tuned = np.array_split(order, 2)

        def of_worst(strength: float) -> float:
            fit = self._fit(features[fitted], labels[fitted], strength)
            return worst_class(fit.affine.logits(features[tuned]), labels[tuned])

        return max(_STRENGTHS, key=of_worst)

    def _fit(self, features: Matrix, labels: Labels, strength: float | None) -> Fit:
        classes, offset = self.ready.classes, self.head.offset_name is not None
        if strength is None:
            return fit_softmax(features, labels, classes, _DECAY / 2, offset)
        draws = balanced_draws(labels, _DRAWS)
        return averaged(
            [
                fit_standardised(features[rows], labels[rows], classes, strength, offset)
                for rows in draws
            ]
        )
