"""Reference heads: what the clean images alone support.

A copy of the last layer, fitted anew to the model's own features of clean images, keeps the
natural confusions and has no reason to keep a backdoor. So what the original head says and the
copies do not, under the same concept, is what the clean data does not support. Several copies,
fitted to different resamples with different weight decay, give that difference an error bar.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

__all__ = ["ReferenceHeads", "fit_reference_heads", "pooled_features"]

FloatArray = NDArray[np.float64]

# Share of the images that each copy is fitted to; the rest tells its accuracy.
_SHARE = 0.7
_WEIGHT_DECAYS = (3e-2, 1e-2)
_ITERATIONS = 200


@dataclass(frozen=True, eq=False)
class ReferenceHeads:
    """Copies of the last layer.

    Attributes:
        weights: Shape (copies, features, classes).
        biases: Shape (copies, classes).
        accuracies: Of each copy, on the images that it was not fitted to.
    """

    weights: FloatArray
    biases: FloatArray
    accuracies: tuple[float, ...]

    @property
    def copies(self) -> int:
        """Number of copies."""
        return len(self.biases)


def pooled_features(layer: NDArray[np.generic], axis: int) -> FloatArray:
    """Return one number per neuron and image, shape (images, neurons): its mean over all places."""
    rows = np.moveaxis(layer, axis, 1)
    features: FloatArray = rows.reshape(*rows.shape[:2], -1).mean(axis=2, dtype=np.float64)
    return features


def fit_reference_heads(
    features: FloatArray,
    labels: NDArray[np.integer],
    classes: int,
    rng: np.random.Generator,
) -> ReferenceHeads:
    """Fit multinomial logistic regressions to features of clean images, class-balanced, by L-BFGS.

    Args:
        features: Shape (images, features).
        labels: Shape (images,).
        classes: Number of classes.
        rng: Chooses the resamples.
    """
    fitted = []
    for decay in _WEIGHT_DECAYS:
        chosen = _resample(labels, rng)
        weights, bias = _fit(features[chosen], labels[chosen], classes, decay)
        left = np.setdiff1d(np.arange(len(labels)), chosen)
        right = (features[left] @ weights + bias).argmax(axis=1) == labels[left]
        fitted.append((weights, bias, float(right.mean()) if len(left) else float("nan")))
    return ReferenceHeads(
        np.stack([weights for weights, _, _ in fitted]),
        np.stack([bias for _, bias, _ in fitted]),
        tuple(accuracy for _, _, accuracy in fitted),
    )


def _resample(labels: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.intp]:
    """Choose a share of each class, at least one image."""
    parts = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        parts.append(rng.choice(own, max(1, round(_SHARE * len(own))), replace=False))
    return np.sort(np.concatenate(parts))


def _fit(
    features: FloatArray, labels: NDArray[np.integer], classes: int, decay: float
) -> tuple[FloatArray, FloatArray]:
    centre, scale = features.mean(axis=0), features.std() + 1e-9
    inputs = (features - centre) / scale
    present, counts = np.unique(labels, return_counts=True)
    share = dict(zip(present, 1 / (len(present) * counts), strict=True))
    balance = np.array([share[label] for label in labels])
    truth = np.eye(classes)[labels]

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        weights, bias = flat[:-classes].reshape(-1, classes), flat[-classes:]
        logits = inputs @ weights + bias
        value = -(balance * (truth * log_softmax(logits, axis=1)).sum(axis=1)).sum()
        error = balance[:, None] * (softmax(logits, axis=1) - truth)
        slope = np.concatenate([(inputs.T @ error + decay * weights).ravel(), error.sum(axis=0)])
        return float(value + 0.5 * decay * (weights**2).sum()), slope

    start = np.zeros((inputs.shape[1] + 1) * classes)
    flat = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS}).x
    weights, bias = flat[:-classes].reshape(-1, classes) / scale, flat[-classes:]
    return weights, bias - centre @ weights
