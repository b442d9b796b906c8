"""Reference heads: what the clean images alone support.

Heads fitted anew to the model's own features of clean images have no reason to keep a backdoor.
So what the model says and they do not, under the same concept, is what the clean data does not
support. Several layers are read: a head on the last one shares most of the model's natural
confusions, and follows a backdoor that the features before it have grown into one with the target;
one on an earlier layer does not follow it and confuses other things. Their mean, weighted by how
well they classify, is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from threadpoolctl import threadpool_limits

from onnx_soda.concepts.folds import FOLDS
from onnx_soda.concepts.pooling import Pooling

__all__ = ["ReferenceHead", "fit_reference_head", "trust_in"]

FloatArray = NDArray[np.float64]

_WEIGHT_DECAY = 1e-2
_ITERATIONS = 120
# A head that is this much less accurate than the best one counts by a factor e less.
_ACCURACY_STEP = 0.04


@dataclass(frozen=True, eq=False)
class ReferenceHead:
    """Two heads on one layer, each fitted to one fold of the clean images.

    Attributes:
        pooling: How the layer becomes features.
        weights: Shape (folds, features, classes).
        biases: Shape (folds, classes).
        accuracies: Of the head fitted to each fold, on the images of the other.
    """

    pooling: Pooling
    weights: FloatArray
    biases: FloatArray
    accuracies: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Mean accuracy on images that it was not fitted to."""
        return float(np.mean(self.accuracies))


def trust_in(heads: Sequence[ReferenceHead]) -> FloatArray:
    """Return the weight of each head in the reference; they add up to 1."""
    weights: FloatArray = softmax([head.accuracy / _ACCURACY_STEP for head in heads])
    return weights


def fit_reference_head(
    pooling: Pooling,
    features: FloatArray,
    labels: NDArray[np.integer],
    fold: NDArray[np.integer],
    classes: int,
) -> ReferenceHead:
    """Fit a multinomial logistic regression to each fold, class-balanced, by L-BFGS.

    Args:
        pooling: How the features were made.
        features: Shape (images, features).
        labels: Shape (images,).
        fold: 0 or 1 per image.
        classes: Number of classes.
    """
    weights, biases, accuracies = [], [], []
    for which in range(FOLDS):
        own = fold == which
        weight, bias = _fit(features[own], labels[own], classes)
        right = (features[~own] @ weight + bias).argmax(axis=1) == labels[~own]
        weights.append(weight)
        biases.append(bias)
        accuracies.append(float(right.mean()) if len(right) else 0.0)
    return ReferenceHead(pooling, np.stack(weights), np.stack(biases), tuple(accuracies))


def _fit(
    features: FloatArray, labels: NDArray[np.integer], classes: int
) -> tuple[FloatArray, FloatArray]:
    centre, scale = features.mean(axis=0), features.std() + 1e-9
    # Single precision halves the time of the largest cost, the two products.
    inputs = ((features - centre) / scale).astype(np.float32)
    present, counts = np.unique(labels, return_counts=True)
    share = dict(zip(present, 1 / (len(present) * counts), strict=True))
    balance = np.array([share[label] for label in labels])
    truth = np.eye(classes)[labels]

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        weights, bias = flat[:-classes].reshape(-1, classes), flat[-classes:]
        logits = inputs @ weights.astype(np.float32) + bias
        value = -(balance * (truth * log_softmax(logits, axis=1)).sum(axis=1)).sum()
        error = balance[:, None] * (softmax(logits, axis=1) - truth)
        steep = inputs.T @ error.astype(np.float32) + _WEIGHT_DECAY * weights
        slope = np.concatenate([steep.ravel(), error.sum(axis=0)])
        return float(value + 0.5 * _WEIGHT_DECAY * (weights**2).sum()), slope

    start = np.zeros((inputs.shape[1] + 1) * classes)
    # Thousands of tiny vector products: threads that wait for a core which something else uses made
    # this a hundred times slower (docs/performance.md).
    with threadpool_limits(limits=1, user_api="blas"):
        options = {"maxiter": _ITERATIONS}
        flat = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    weights, bias = flat[:-classes].reshape(-1, classes) / scale, flat[-classes:]
    return weights, bias - centre @ weights
