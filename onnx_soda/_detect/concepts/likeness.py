"""How alike classes are to the model, and, of many, which are of one kind.

Classes are alike as far as their mean features point the same way from what all have in common.
Among many classes of several kinds that is little: beside cars and faces, all digits are alike. So
there classes of one kind are compared among themselves: what counts as alike, and as damage, is
what it would be if the model knew that kind alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from onnx_soda._detect.concepts.folds import MOST_OF_ONE_KIND

FloatArray = NDArray[np.float64]

# Classes of a kind, on average; about as many as the smaller models of the calibration have.
CLASSES_OF_A_KIND = 16
# Images of each class from which a reference keeps natural confusions apart: with 200, clean models
# of ten classes had none left; with 15 to 36, models of 29 and 43 classes had several.
_KNOWN_WELL = 100


def class_likeness(
    features: FloatArray,
    labels: NDArray[np.integer],
    classes: int,
    kinds: NDArray[np.integer] | None = None,
) -> FloatArray:
    """Return how alike classes are to the model, -1 to 1, shape (classes, classes).

    The cosine of the class means of the features, centred on their common mean; 0 for classes
    without images. Classes of one kind are centred on the mean of that kind.

    Args:
        features: Shape (images, features).
        labels: Shape (images,).
        classes: Number of classes.
        kinds: From `kinds_of`; None where all are of one kind.
    """
    means, present = _centred_means(features, labels, classes)
    likeness = _cosine(means)
    if kinds is None:
        return likeness
    for kind in np.unique(kinds[present]):
        own = present[kinds[present] == kind]
        likeness[np.ix_(own, own)] = _cosine(means[own] - means[own].mean(axis=0))
    return likeness


def model_likeness(
    layers: Sequence[FloatArray],
    labels: NDArray[np.integer],
    classes: int,
    fewest: int,
    kinds: NDArray[np.integer] | None = None,
) -> FloatArray:
    """Return how alike classes are where a natural confusion is to be told from a backdoor.

    In the last layer, where natural confusions show. A backdoor makes its two classes more alike
    there, and an attacker can press that layer together on purpose (the paper's section 6). Where
    the reference knows the classes well, it keeps natural confusions apart by itself; there classes
    must be alike in the earliest layer too.

    Args:
        layers: Features of clean images, the last layer first, each of shape (images, features).
        labels: Shape (images,).
        classes: Number of classes.
        fewest: Images that the reference was fitted to, of the class with the fewest.
        kinds: As for `class_likeness`.
    """
    last = class_likeness(layers[0], labels, classes, kinds)
    if fewest < _KNOWN_WELL:
        return last
    return np.minimum(last, class_likeness(layers[-1], labels, classes, kinds))


def kinds_of(
    features: FloatArray, labels: NDArray[np.integer], classes: int
) -> NDArray[np.intp] | None:
    """Sort many classes into kinds, 16 in each on average; None where there are not so many.

    By Ward's clustering (Ward 1963; `scipy.cluster.hierarchy.linkage`) of the directions in which
    their means lie.

    Args:
        features: Of clean images in the last layer, shape (images, features).
        labels: Shape (images,).
        classes: Number of classes.

    Returns:
        The number of each class's kind, shape (classes,). Classes without images are of no kind
        with others.
    """
    means, present = _centred_means(features, labels, classes)
    if len(present) <= MOST_OF_ONE_KIND:
        return None
    directions = means[present] / _lengths(means[present])
    kinds = np.arange(classes) + len(present)
    tree = linkage(directions, "ward")
    kinds[present] = fcluster(tree, len(present) // CLASSES_OF_A_KIND, "maxclust")
    return kinds


def _centred_means(
    features: FloatArray, labels: NDArray[np.integer], classes: int
) -> tuple[FloatArray, NDArray[np.integer]]:
    """Return the mean features of each class less their mean, and the classes with images."""
    means = np.zeros((classes, features.shape[1]))
    present = np.unique(labels)
    for label in present:
        means[label] = features[labels == label].mean(axis=0)
    means[present] -= means[present].mean(axis=0)
    return means, present


def _cosine(vectors: FloatArray) -> FloatArray:
    unit = vectors / _lengths(vectors)
    cosine: FloatArray = unit @ unit.T
    return cosine


def _lengths(vectors: FloatArray) -> FloatArray:
    lengths: FloatArray = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return lengths
