"""Concept interventions on one classifier: reference heads, probe, search, a closer look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda.concepts.concept import Donor
from onnx_soda.concepts.confirm import Confirmation, confirm
from onnx_soda.concepts.probe import Probe, ProbeImages
from onnx_soda.concepts.reference import ReferenceHeads, fit_reference_heads, pooled_features
from onnx_soda.concepts.score import FloatArray, class_likeness
from onnx_soda.concepts.search import Budget, SearchResult, half_membership, search
from onnx_soda.data.datasets import CleanSet
from onnx_soda.data.preprocessing import Preprocessing
from onnx_soda.data.sources import IntArray
from onnx_soda.model.anatomy import Anatomy
from onnx_soda.model.body import Body
from onnx_soda.model.providers import RuntimeOptions
from onnx_soda.observe import image_shape, observe
from onnx_soda.options import no_progress

__all__ = ["MOST_CLASSES", "ConceptEvidence", "examine_concepts", "split_clean_set"]

# With more classes the images of all of them cost more than the search is worth, and the table of
# all pairs under all concepts does not fit into memory.
MOST_CLASSES = 128
# Images that concepts are tried on: of each class at most 40 and, with many classes, fewer, since
# the search's time grows with their number; and no more than two fifths of a class, since the
# reference heads need the others.
_PROBE_IMAGES, _LEAST_PROBE_IMAGES, _ALL_PROBE_IMAGES, _PROBE_SHARE = 40, 8, 700, 0.4
_FIT_IMAGES = 300
# Pairs that are looked at image by image.
_CONFIRMED_PAIRS = 3


@dataclass(frozen=True, eq=False)
class ConceptEvidence:
    """What concept interventions show.

    Attributes:
        search: Scores and findings.
        pairs: The pairs with the highest scores, looked at image by image; the highest first.
        copy_accuracies: Clean accuracy of each reference head on images it was not fitted to.
        model_accuracy: Clean accuracy of the model on the images they were fitted to.
        fit_images: Images that the reference heads were fitted to.
        fewest_fit_images: Those of the class with the fewest.
        probe_images: Images that concepts were tried on.
        fewest_probe_images: Those of the class with the fewest.
    """

    search: SearchResult
    pairs: tuple[Confirmation, ...]
    copy_accuracies: tuple[float, ...]
    model_accuracy: float
    fit_images: int
    fewest_fit_images: int
    probe_images: int
    fewest_probe_images: int


@dataclass(frozen=True, eq=False)
class _Subject:
    """The classifier with what it is examined by."""

    anatomy: Anatomy
    how: Preprocessing
    heads: ReferenceHeads
    likeness: FloatArray
    options: RuntimeOptions

    def probe(self, pixels: NDArray[np.float32], membership: NDArray[np.float32]) -> Probe:
        """Open the classifier with images in groups."""
        return Probe(
            self.anatomy, self.how, ProbeImages(pixels, membership), self.heads, self.options
        )


def split_clean_set(labels: IntArray, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Choose images to fit reference heads to, and other ones to try concepts on.

    Args:
        labels: Shape (images,).
        rng: Chooses.

    Returns:
        Positions for fitting and for probing, sorted, without a common one.
    """
    fit, probe = [], []
    present = np.unique(labels)
    most = int(np.clip(_ALL_PROBE_IMAGES // len(present), _LEAST_PROBE_IMAGES, _PROBE_IMAGES))
    for label in present:
        own = rng.permutation(np.flatnonzero(labels == label))
        count = min(most, int(_PROBE_SHARE * len(own)))
        probe.append(own[:count])
        fit.append(own[count : count + _FIT_IMAGES])
    return np.sort(np.concatenate(fit)), np.sort(np.concatenate(probe))


def examine_concepts(
    body: Body,
    clean: CleanSet,
    how: Preprocessing,
    classes: int,
    options: RuntimeOptions,
    seed: int = 0,
    budget: Budget | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> ConceptEvidence:
    """Search for concepts that turn one class into another without the clean data's support.

    Args:
        body: The classifier; its layer is what the reference heads read.
        clean: Clean images.
        how: The model's preprocessing.
        classes: Number of classes.
        options: How sessions run.
        seed: For the choice of images and concepts.
        budget: How many concepts to try.
        advance: Called with the number of concepts tried and the number in all.

    Raises:
        InferenceError: The model does not run.
        ImageError: An image is unreadable or does not fit the model.
    """
    rng = np.random.default_rng(seed)
    fit, chosen = split_clean_set(clean.labels, rng)
    anatomy = body.anatomy
    seen = observe(body, clean, fit, how, no_progress)
    features = pooled_features(seen.layer, anatomy.layer.axis)
    heads = fit_reference_heads(features, seen.labels, classes, rng)
    likeness = class_likeness(features, seen.labels, classes)
    subject = _Subject(anatomy, how, heads, likeness, options)
    pixels, labels = _read(clean, chosen, anatomy, how), clean.labels[chosen]
    membership = half_membership(labels, classes)
    donors = _donors(pixels)
    result = search(subject.probe(pixels, membership), likeness, rng, budget, advance, donors)
    scoring = membership[:, classes:].any(axis=1)
    pairs = _look_closely(subject, pixels[scoring], labels[scoring], result, rng)
    return ConceptEvidence(
        search=result,
        pairs=pairs,
        copy_accuracies=heads.accuracies,
        model_accuracy=seen.accuracy,
        fit_images=len(fit),
        fewest_fit_images=_fewest(seen.labels),
        probe_images=len(chosen),
        fewest_probe_images=_fewest(labels),
    )


def _read(
    clean: CleanSet, chosen: IntArray, anatomy: Anatomy, how: Preprocessing
) -> NDArray[np.float32]:
    shape = image_shape(anatomy.view.image, clean)
    pixels = clean.images.read(chosen, shape, how.resize).astype(np.float32) / 255
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _donors(pixels: NDArray[np.float32]) -> list[Donor]:
    """Return the style of every image."""
    return [
        (tuple(map(float, image.mean(axis=(1, 2)))), tuple(map(float, image.std(axis=(1, 2)))))
        for image in pixels
    ]


def _fewest(labels: IntArray) -> int:
    return int(np.unique(labels, return_counts=True)[1].min())


def _look_closely(
    subject: _Subject,
    pixels: NDArray[np.float32],
    labels: IntArray,
    result: SearchResult,
    rng: np.random.Generator,
) -> tuple[Confirmation, ...]:
    """Look at the best pairs image by image: every image is a group of its own."""
    probe = subject.probe(pixels, np.eye(len(pixels), dtype=np.float32))
    present = set(labels.tolist())
    return tuple(
        confirm(probe, pixels, labels, finding, subject.likeness, result.robustness, rng)
        for finding in result.findings[:_CONFIRMED_PAIRS]
        if finding.victim_class in present
    )
