"""Concept interventions on one classifier: reference heads, probe, search, a closer look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnx_soda.concepts.concept import Donor
from onnx_soda.concepts.confirm import Confirmation, Shown, confirm, weigh
from onnx_soda.concepts.estimate import Judge
from onnx_soda.concepts.features import read_features
from onnx_soda.concepts.folds import FOLDS, Folds, group_by_fold, split_into_folds
from onnx_soda.concepts.probe import Probe, ProbeImages
from onnx_soda.concepts.reference import ReferenceHead, fit_reference_head, trust_in
from onnx_soda.concepts.refine import refine
from onnx_soda.concepts.score import FloatArray, model_likeness
from onnx_soda.concepts.search import Budget, SearchResult, search
from onnx_soda.data.datasets import CleanSet
from onnx_soda.data.preprocessing import Preprocessing
from onnx_soda.data.sources import IntArray
from onnx_soda.model.anatomy import Anatomy
from onnx_soda.model.runtime_options import RuntimeOptions
from onnx_soda.observe import image_shape

__all__ = ["MOST_CLASSES", "ConceptEvidence", "examine_concepts"]

# With more classes the images of all of them cost more than the search is worth, and the table of
# all pairs under all concepts does not fit into memory.
MOST_CLASSES = 128
# Pixels of further images of a victim; 300 of the usual 224 x 224.
_MORE_PIXELS = 300 * 224 * 224


@dataclass(frozen=True, eq=False)
class ConceptEvidence:
    """What concept interventions show.

    Attributes:
        search: Scores and findings.
        pairs: The pairs with the highest scores, looked at image by image; the highest bound first.
        reference_accuracies: Clean accuracy of the reference heads of each layer, the last layer
            first, on images they were not fitted to.
        model_accuracy: Clean accuracy of the model on the images they were fitted to.
        fit_images: Images that the reference heads were fitted to, both folds together.
        fewest_images: Those of the smaller fold of the class with the fewest.
        probe_images: Images that concepts were tried on.
        confirm_images: Images that the best pairs were looked at with, besides those of the victim
            that were left.
    """

    search: SearchResult
    pairs: tuple[Confirmation, ...]
    reference_accuracies: tuple[float, ...]
    model_accuracy: float
    fit_images: int
    fewest_images: int
    probe_images: int
    confirm_images: int


@dataclass(frozen=True, eq=False)
class _Subject:
    """The classifier with what it is examined by."""

    anatomy: Anatomy
    how: Preprocessing
    heads: tuple[ReferenceHead, ...]
    fitted: NDArray[np.int64]
    likeness: FloatArray
    classes: int
    options: RuntimeOptions

    def probe(self, images: ProbeImages) -> Probe:
        """Open the classifier with images in groups."""
        return Probe(self.anatomy, self.how, images, self.heads, self.classes, self.options)

    def judge(self, unchanged: FloatArray, labels: IntArray, fold: IntArray) -> Judge:
        """Return what scores on some images are made from; nothing is usual yet."""
        return Judge(
            unchanged=unchanged,
            images=_count_by_fold(labels, fold, self.classes),
            # A head is read on the fold that it was not fitted to.
            fitted=self.fitted[::-1],
            likeness=self.likeness,
            trust=trust_in(self.heads),
            usual=np.zeros((FOLDS, self.classes, self.classes)),
        )


@dataclass(frozen=True, eq=False)
class _Images:
    """Images of both folds."""

    pixels: NDArray[np.float32]
    labels: IntArray
    fold: IntArray

    def __add__(self, other: _Images) -> _Images:
        return _Images(
            np.concatenate([self.pixels, other.pixels]),
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.fold, other.fold]),
        )

    def of(self, chosen: NDArray[np.bool_]) -> _Images:
        return _Images(self.pixels[chosen], self.labels[chosen], self.fold[chosen])

    def by_class(self, classes: int) -> ProbeImages:
        groups = group_by_fold(self.labels, self.fold, classes)
        return ProbeImages(self.pixels, groups, self.fold)

    def one_by_one(self) -> ProbeImages:
        return ProbeImages(self.pixels, np.eye(len(self.pixels), dtype=np.float32), self.fold)


def examine_concepts(
    anatomy: Anatomy,
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
        anatomy: The classifier.
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
    folds = split_into_folds(clean.labels, rng)
    labels = clean.labels[folds.rows]
    features = read_features(anatomy, clean, folds.rows, how, options)
    heads = tuple(
        fit_reference_head(pooling, layer, labels, folds.fold, classes)
        for pooling, layer in zip(features.poolings, features.layers, strict=True)
    )
    fitted = _count_by_fold(labels, folds.fold, classes)
    likeness = model_likeness(features.layers, labels, classes, _fewest(fitted))
    subject = _Subject(anatomy, how, heads, fitted, likeness, classes, options)
    reader = _Reader(clean, folds, anatomy, how)
    images = reader.read(folds.confirm)
    searched = images.of(folds.search[folds.confirm])
    probe = subject.probe(searched.by_class(classes))
    judge = subject.judge(Judge.by_fold(probe.flows(None)), searched.labels, searched.fold)
    found = search(probe, judge, rng, budget, advance, _donors(searched.pixels))
    return ConceptEvidence(
        search=found,
        pairs=_look_closely(subject, images, reader, found, rng),
        reference_accuracies=tuple(head.accuracy for head in heads),
        model_accuracy=features.accuracy,
        fit_images=len(labels),
        fewest_images=_fewest(fitted),
        probe_images=len(searched.labels),
        confirm_images=len(images.labels),
    )


@dataclass(frozen=True, eq=False)
class _Reader:
    """Decodes images of the two folds."""

    clean: CleanSet
    folds: Folds
    anatomy: Anatomy
    how: Preprocessing

    def read(self, chosen: NDArray[np.bool_]) -> _Images:
        rows = self.folds.rows[chosen]
        shape = image_shape(self.anatomy.view.image, self.clean)
        pixels = self.clean.images.read(rows, shape, self.how.resize).astype(np.float32) / 255
        channels_first = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32)
        return _Images(channels_first, self.clean.labels[rows], self.folds.fold[chosen])

    def more_of(self, label: int) -> _Images:
        """Decode the images of a class that are left, as many as fit."""
        image = image_shape(self.anatomy.view.image, self.clean)
        most = _MORE_PIXELS // (image.height * image.width)
        own = self.clean.labels[self.folds.rows] == label
        left = np.flatnonzero(own & ~self.folds.confirm)[:most]
        return self.read(np.isin(np.arange(len(own)), left))


def _donors(pixels: NDArray[np.float32]) -> list[Donor]:
    """Return the style of every image."""
    return [
        (tuple(map(float, image.mean(axis=(1, 2)))), tuple(map(float, image.std(axis=(1, 2)))))
        for image in pixels
    ]


def _count_by_fold(labels: IntArray, fold: IntArray, classes: int) -> NDArray[np.int64]:
    """Return the number of images, shape (folds, classes)."""
    return np.stack([np.bincount(labels[fold == f], minlength=classes) for f in range(FOLDS)])


def _fewest(fitted: NDArray[np.int64]) -> int:
    """Return those of the class with the fewest, in the smaller fold, of classes that have any."""
    return int(fitted[:, fitted.any(axis=0)].min())


def _look_closely(
    subject: _Subject,
    images: _Images,
    reader: _Reader,
    found: SearchResult,
    rng: np.random.Generator,
) -> tuple[Confirmation, ...]:
    """Look at the best pairs on more images, one by one, and on all there are of the victim."""
    pairs = []
    for finding in found.findings:
        if finding.victim_class not in images.labels:
            continue
        together = images + reader.more_of(finding.victim_class)
        single = subject.probe(together.one_by_one())
        grouped = single.regrouped(together.by_class(subject.classes).membership)
        shown = Shown(single, grouped, together.pixels, together.labels, together.fold)
        judge = subject.judge(shown.flows(None), together.labels, together.fold)
        judge = replace(judge, usual=found.judge.usual)
        weighed = weigh(shown, judge, finding)
        if weighed.score > 0:
            finding = refine(shown, judge, finding, rng)
            weighed = weigh(shown, judge, finding)
        pairs.append(confirm(shown, finding, weighed, rng))
    return tuple(sorted(pairs, key=lambda pair: -pair.bound))
