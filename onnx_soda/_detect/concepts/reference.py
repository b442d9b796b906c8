"""Reference heads: what the clean images alone support.

Heads fitted anew to the model's own features of clean images have no reason to keep a backdoor.
So what the model says and they do not, under the same concept, is what the clean data does not
support.

Several layers are read. A head on the last layer shares most of the model's natural confusions. But
it follows a backdoor where the features have already merged trigger and target. A head on an
earlier layer does not follow it, and confuses other things. The mean of the heads, weighted by how
well they classify, is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from threadpoolctl import threadpool_limits

from onnx_soda._data.sources import IntArray
from onnx_soda._detect.concepts.folds import FOLDS
from onnx_soda._detect.concepts.layers import Pooling, StyleLayer, find_style_layer, make_pooling
from onnx_soda._model.anatomy import Anatomy, Layer
from onnx_soda._suspect import Suspect

FloatArray = NDArray[np.float64]

# Earlier layers know colours and edges better than classes.
_ROLES = ("last", "deep", "middle")


@dataclass(frozen=True, eq=False)
class Features:
    """What the model makes of the clean images, layer by layer.

    Attributes:
        accuracy: Share of the images whose class has the largest logit.
        poolings: How each layer became features; the last layer first.
        layers: Features of each, shape (images, features).
        style_layer: The earliest of them that has a style; None where none has.
        styles: Style of each image there, shape (images, 2, channels).
    """

    accuracy: float
    poolings: tuple[Pooling, ...]
    layers: tuple[FloatArray, ...]
    style_layer: StyleLayer | None
    styles: NDArray[np.float32]


def reference_layers(anatomy: Anatomy) -> tuple[Layer, ...]:
    """Return the layers that reference heads read, the last one first, each once."""
    offered = [layer for layer in anatomy.candidates if layer.role in _ROLES]
    chosen = {layer.name: layer for layer in (offered or [anatomy.layer])}
    return tuple(chosen.values())


def read_features(suspect: Suspect, rows: IntArray) -> Features:
    """Run the model over clean images and pool its layers, a batch at a time.

    With hundreds of classes this takes as long as telling the accuracy: it is told how far it is,
    and it ends where the time is over.

    Args:
        suspect: The classifier, with clean images.
        rows: Positions of those to read.

    Raises:
        InferenceError: The model does not run.
        ImageError: An image is unreadable or does not fit the model.
        Halted: As `Suspect.tell` raises it.
    """
    anatomy = suspect.anatomy
    layers = reference_layers(anatomy)
    names = [layer.name for layer in layers]
    # The body gives the analysed layer anyway.
    body = suspect.body_with([name for name in names if name != anatomy.layer.name])
    poolings: tuple[Pooling, ...] = ()
    style_layer: StyleLayer | None = None
    right, parts, styles = 0.0, [], []
    for start in range(0, len(rows), body.batch_size):
        if start:
            suspect.tell("clean images read for the reference", start, len(rows))
        observation = suspect.observe(rows[start : start + body.batch_size], body)
        right += observation.accuracy * len(observation.labels)
        given = {**observation.sides, anatomy.layer.name: observation.layer}
        values = [given[name] for name in names]
        if not poolings:
            poolings = tuple(
                make_pooling(layer.name, layer.axis, value.shape, grid=number > 0)
                for number, (layer, value) in enumerate(zip(layers, values, strict=True))
            )
            if not anatomy.layer.only_read:
                style_layer = find_style_layer(poolings, [value.shape for value in values])
        parts.append([pool.apply(value) for pool, value in zip(poolings, values, strict=True)])
        if style_layer:
            styles.append(style_layer.measure(given[style_layer.name]))
    together = tuple(np.concatenate(column) for column in zip(*parts, strict=True))
    measured = np.concatenate(styles) if styles else np.zeros((len(rows), 2, 0), np.float32)
    return Features(right / len(rows), poolings, together, style_layer, measured)


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


# With more classes a regression takes minutes, and the means of classes say nearly as much.
_MOST_REGRESSED = 128
# Share of the covariance that is taken for the same in all directions: with a few images of each
# class the rest is known badly (Friedman 1989, regularized discriminant analysis).
_SHRINKAGE = 0.5
# Stands for the score of a class without images.
_ABSENT = -1e4


def fit_reference_head(
    pooling: Pooling,
    features: FloatArray,
    labels: NDArray[np.integer],
    fold: NDArray[np.integer],
    classes: int,
) -> ReferenceHead:
    """Fit a multinomial logistic regression to each fold, class-balanced, by L-BFGS.

    With over 128 classes it is a linear discriminant analysis instead, in closed form.

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
        fit = _fit if classes <= _MOST_REGRESSED else _discriminant
        weight, bias = fit(features[own], labels[own], classes)
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


def _discriminant(
    features: FloatArray, labels: NDArray[np.integer], classes: int
) -> tuple[FloatArray, FloatArray]:
    """Fit a linear discriminant analysis: the classes' means, and one covariance for all.

    With fewer images than features the inverse is taken in the space of the images (Woodbury).
    """
    centre, scale = features.mean(axis=0), features.std() + 1e-9
    inputs = (features - centre) / scale
    present, which = np.unique(labels, return_inverse=True)
    means = np.zeros((len(present), inputs.shape[1]))
    np.add.at(means, which, inputs)
    means /= np.bincount(which)[:, None]
    within = (inputs - means[which]) * np.sqrt((1 - _SHRINKAGE) / len(inputs))
    even = _SHRINKAGE * np.square(within).sum() / ((1 - _SHRINKAGE) * inputs.shape[1]) + 1e-6
    if len(inputs) < inputs.shape[1]:
        inner = within @ within.T + even * np.eye(len(within))
        known = solve(inner, within @ means.T, assume_a="pos")
        directions = (means.T - within.T @ known) / even
    else:
        covariance = within.T @ within + even * np.eye(within.shape[1])
        directions = solve(covariance, means.T, assume_a="pos")
    weights, bias = np.zeros((inputs.shape[1], classes)), np.full(classes, _ABSENT)
    weights[:, present] = directions / scale
    bias[present] = -0.5 * np.einsum("cf,fc->c", means, directions)
    bias[present] -= centre @ weights[:, present]
    return weights, bias
