"""What all steps of a repair share: the split, the model at work, the images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_soda._data.datasets import CleanSet
from onnx_soda._data.labels import check_labels
from onnx_soda._data.preprocessing import Preprocessing
from onnx_soda._data.sources import IntArray, SubsetSource
from onnx_soda._detect.soda.detector import attribute
from onnx_soda._errors import LabelError, RepairError
from onnx_soda._model.anatomy import Anatomy, dissect
from onnx_soda._model.load import OnnxModel
from onnx_soda._model.parts import Body, Tail
from onnx_soda._observe import (
    Observation,
    choose_preprocessing,
    count_classes,
    image_shape,
    observe,
    sample_images,
)
from onnx_soda._options import Progress, RepairOptions
from onnx_soda._repair.files import read_proto
from onnx_soda._repair.masks import outstanding_neurons

# Share of each class to measure with; the rest is split evenly into folds.
_MEASURE, _FOLDS = 0.25, 3
# The most images of one fold, and to measure with. More teach a last layer little and cost time.
_MOST = 2000


@dataclass(frozen=True, eq=False)
class Partition:
    """Positions in a clean set; no two parts share one.

    Attributes:
        folds: What weights are trained on. Each setting is judged on each fold after training on
            the others (cross-validation); the one chosen is trained on all.
        measure: What the result is measured with; nothing else sees it.
    """

    folds: tuple[IntArray, ...]
    measure: IntArray

    @property
    def train(self) -> IntArray:
        """All folds together."""
        return np.sort(np.concatenate(self.folds))


def partition(labels: IntArray, seed: int) -> Partition:
    """Split each class: a quarter to measure with, three folds to train on and to choose by.

    Args:
        labels: Shape (images,).
        seed: For the draw.
    """
    rng = np.random.default_rng(seed)
    parts: tuple[list[IntArray], ...] = tuple([] for _ in range(_FOLDS + 1))
    present = np.unique(labels)
    most = max(_MOST // len(present), 2)
    for label in present:
        own = rng.permutation(np.flatnonzero(labels == label))
        measure, rest = np.split(own, [round(_MEASURE * len(own))])
        for part, rows in zip(parts, (measure, *np.array_split(rest, _FOLDS)), strict=True):
            part.append(rows[:most])
    measured, *folds = (np.sort(np.concatenate(part)).astype(np.int64) for part in parts)
    return Partition(tuple(folds), measured)


def subset(clean: CleanSet, rows: IntArray) -> CleanSet:
    """Return some images of a clean set as a clean set."""
    return replace(clean, labels=clean.labels[rows], images=SubsetSource(clean.images, rows))


FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Subject:
    """A classifier with its preprocessing.

    Attributes:
        body: Image to logits and layer, in ONNX Runtime.
        how: The preprocessing.
    """

    body: Body
    how: Preprocessing

    def pixels(self, clean: CleanSet, rows: IntArray | None = None) -> FloatArray:
        """Read images, shape (images, channels, height, width), from 0 to 1.

        Args:
            clean: Where from.
            rows: Positions; all where not given.
        """
        chosen = np.arange(len(clean.labels)) if rows is None else rows
        shape = image_shape(self.body.anatomy.view.image, clean)
        read = clean.images.read(chosen, shape, self.how.resize).astype(np.float32) / 255
        return np.ascontiguousarray(read.transpose(0, 3, 1, 2), np.float32)

    def inputs(self, pixels: FloatArray) -> NDArray[Any]:
        """Return pixels as the model takes them."""
        image = self.body.anatomy.view.image
        levels = 255 * pixels.transpose(0, 2, 3, 1)
        return self.how.apply(levels, self.how.layout or image.layout, image.numpy_dtype())

    def bounds(self, pixels: FloatArray) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the least and the largest input that an image can have, for one image."""
        black, white = self.inputs(np.zeros_like(pixels[:1])), self.inputs(np.ones_like(pixels[:1]))
        return np.minimum(black, white), np.maximum(black, white)

    def activations(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Return the analysed layer for preprocessed images."""
        return self.body.observe(inputs)[1]


# Fewer images of the victim cannot be split in three.
_FEWEST_VICTIMS = 8
# Images that the torch module is compared with ONNX Runtime on.
_COMPARED = 8


@dataclass(frozen=True, eq=False)
class Bench:
    """What all steps need.

    Attributes:
        proto: The model as its file has it, with all weights.
        anatomy: Its parts.
        subject: The model at work on images.
        clean: Clean images, all of them.
        parts: Which train, and which measure.
        seen: The model on images that train.
        neurons: The outstanding neurons of the layer.
        count: Number of all its neurons.
        pair: Victim and target.
        also: Other classes that are repaired with the victim.
        options: As asked for.
        progress: Called as the repair goes on.
    """

    proto: onnx.ModelProto
    anatomy: Anatomy
    subject: Subject
    clean: CleanSet
    parts: Partition
    seen: Observation
    neurons: NDArray[np.intp]
    count: int
    pair: tuple[int, int]
    also: tuple[int, ...]
    options: RepairOptions
    progress: Progress

    @property
    def layer(self) -> str:
        """Name of the layer of the neurons."""
        return self.anatomy.layer.name

    @property
    def logits(self) -> str:
        """Name of the logits."""
        return self.anatomy.logits.value.name or ""

    @property
    def climbable(self) -> bool:
        """Whether the image can be changed by gradients, and is to be."""
        floating = np.issubdtype(self.anatomy.view.image.numpy_dtype(), np.floating)
        return bool(floating) and self.options.reconstruction != "concepts"

    @property
    def neurons_at(self) -> tuple[int, NDArray[np.intp]]:
        """Axis of the layer's neurons, and the outstanding ones."""
        return self.anatomy.layer.axis, self.neurons

    def sample(self) -> NDArray[Any]:
        """Return a few inputs to compare torch with ONNX Runtime on."""
        return self.subject.inputs(self.subject.pixels(self.clean, self.parts.train[:_COMPARED]))


def prepare(
    model: OnnxModel,
    clean: CleanSet,
    pair: tuple[int, int],
    also: tuple[int, ...],
    options: RepairOptions,
    progress: Progress,
) -> Bench:
    """Split the clean set, look at the model at work, and choose its neurons.

    Args:
        model: The model.
        clean: Clean images.
        pair: Victim and target.
        also: Other classes; those with too few images are left out.
        options: See `RepairOptions`.
        progress: Called as it goes on.

    Raises:
        RepairError: The pair is none of this model's, no neuron stands out for the target, or the
            options or the images are none that a repair can go by.
        LabelError: The clean set does not fit the model, or has too few images of the victim.
    """
    _check_asked(options, clean)
    anatomy = dissect(model)
    tail = Tail(anatomy, options.scan.runtime)
    body = Body(anatomy, options.scan.runtime, tail.needed)
    classes = count_classes(body, clean)
    _check_pair(pair, classes, clean)
    others = (label for label in also if label not in pair)
    also = tuple(label for label in others if _images_of(label, clean) >= _FEWEST_VICTIMS)
    parts = partition(clean.labels, options.scan.seed)
    training = subset(clean, parts.train)
    rows = sample_images(training, classes, options.scan)
    how, _ = choose_preprocessing(body, training, rows, options.scan, progress)
    seen = observe(body, training, rows, how, progress)
    neurons = _neurons(tail, seen, pair[1], options, progress)
    count = seen.layer.shape[anatomy.layer.axis]
    return Bench(
        read_proto(model), anatomy, Subject(body, how), clean, parts, seen, neurons, count, pair,
        also, options, progress,
    )  # fmt: skip


def _neurons(
    tail: Tail, seen: Observation, target: int, options: RepairOptions, progress: Progress
) -> NDArray[np.intp]:
    found = attribute(tail, seen, options.scan, partial(progress, "interventions on neurons"))
    if found is None:
        raise RepairError("the neurons' causal attribution cannot be computed")
    neurons = outstanding_neurons(found, target, options.top, options.scan.threshold)
    if not len(neurons):
        raise RepairError(
            f"no neuron stands out for class {target}", "Give a share of them by --top."
        )
    return neurons


def _check_asked(options: RepairOptions, clean: CleanSet) -> None:
    if options.scan.layer != "last" or options.scan.logits is not None:
        raise RepairError(
            "a repair trains the layer before the model's own logits",
            "Leave layer and logits of the scan's options as they are.",
        )
    if clean.preprocessed:
        raise RepairError(
            "infected images are made of pixels, and these are numbers on no scale of pixels",
            "Give the images before preprocessing.",
        )


def _check_pair(pair: tuple[int, int], classes: int, clean: CleanSet) -> None:
    check_labels(clean.labels, classes, clean.class_names, allow_missing=True)
    victim, target = pair
    if victim == target or not (0 <= victim < classes and 0 <= target < classes):
        raise RepairError(
            f"{victim} and {target} are no pair of the model's classes 0..{classes - 1}",
            "Give two different ones.",
        )
    images = _images_of(victim, clean)
    if images < _FEWEST_VICTIMS:
        raise LabelError(
            f"the clean set has {images} images of the victim class {victim}",
            f"Repair needs at least {_FEWEST_VICTIMS}.",
        )


def _images_of(label: int, clean: CleanSet) -> int:
    return int((clean.labels == label).sum())
