"""Shows clean images to a model once and keeps what the analysis needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.datasets import CleanSet
from onnx_soda._data.inference import PreprocessingChoice, infer_preprocessing
from onnx_soda._data.labels import balanced_sample, check_labels
from onnx_soda._data.preprocessing import PRESETS, Preprocessing, candidates, load_preprocessing
from onnx_soda._data.sources import ImageShape, IntArray, Pixels
from onnx_soda._errors import ImageError
from onnx_soda._model.inputs import ImageInput
from onnx_soda._model.parts import Body
from onnx_soda._model.runtime import Arrays
from onnx_soda._options import Progress, ScanOptions, no_progress

# Images on which candidate preprocessings are compared first, and, where the two best ones are
# then too close to call, those two again.
_TRIAL_IMAGES, _CLOSE_CALL_IMAGES = 256, 1024
# Bytes of the images read at once. Larger than a batch of small images: compressed files are read
# chunk by chunk, and a chunk that two blocks share is read twice.
_BLOCK_BYTES = 32 * 2**20
# Images of a class from which it is told what most of them are taken for.
_FEWEST_TO_MISREAD = 10
# Free image sizes without a hint in the data: what most classifiers were trained on.
_FALLBACK_SIZE = 224


@dataclass(frozen=True, eq=False)
class Observation:
    """What the model makes of the clean images.

    Attributes:
        labels: Their classes, shape (images,).
        logits: Shape (images, classes).
        layer: Values of the analysed layer, shape (images, *element_shape).
        sides: Further tensors that the tail needs, with as many rows.
    """

    labels: IntArray
    logits: NDArray[np.float32]
    layer: NDArray[Any]
    sides: Arrays

    @property
    def accuracy(self) -> float:
        """Share of the images whose class has the largest logit."""
        return float((self.logits.argmax(axis=1) == self.labels).mean())

    def misread(self) -> tuple[tuple[int, int, float], ...]:
        """Return the classes of which most images are given one other class.

        Returns:
            Class, the other, and the share; classes with few images are left out.
        """
        found = []
        answers = self.logits.argmax(axis=1)
        for label in np.unique(self.labels):
            counts = np.bincount(answers[self.labels == label])
            most, share = int(counts.argmax()), float(counts.max() / counts.sum())
            if most != label and share > 0.5 and counts.sum() >= _FEWEST_TO_MISREAD:
                found.append((int(label), most, share))
        return tuple(found)


def sample_images(clean: CleanSet, classes: int, options: ScanOptions) -> IntArray:
    """Choose the images to use, the same number of each class as far as there are enough.

    Raises:
        LabelError: Labels outside the model's classes, or classes without images.
    """
    check_labels(
        clean.labels, classes, clean.class_names, allow_missing=options.allow_missing_classes
    )
    rng = np.random.default_rng(options.seed)
    return balanced_sample(clean.labels, classes, options.samples_per_class, rng)


def image_shape(image: ImageInput, clean: CleanSet) -> ImageShape:
    """Return the size in which the model wants its images.

    Raises:
        ImageError: The model takes a flat vector that the images do not fill.
    """
    native = clean.images.native
    if image.layout == "flat":
        return _flat_shape(image.features or 0, native)
    height = native.height if native else _FALLBACK_SIZE
    width = native.width if native else _FALLBACK_SIZE
    channels = image.channels or (native.channels if native else 3)
    return ImageShape(image.height or height, image.width or width, channels)


def count_classes(body: Body, clean: CleanSet) -> int:
    """Return the number of logits, from the graph or by running the model on a black image.

    Raises:
        ImageError: The model takes a flat vector that the images do not fill.
        InferenceError: The model does not run.
    """
    known = body.anatomy.logits.classes
    if known is not None:
        return known
    image = body.anatomy.view.image
    size = image_shape(image, clean)
    shape = image.concrete_shape(1, size.height, size.width, size.channels)
    return int(body.logits(np.zeros(shape, image.numpy_dtype())).shape[1])


def _flat_shape(features: int, native: ImageShape | None) -> ImageShape:
    if native and native.height * native.width * native.channels == features:
        return native
    size = f"{native.height} x {native.width} x {native.channels}" if native else "mixed sizes"
    raise ImageError(
        f"the model takes {features} values per image and the clean set has images of {size}",
        "Give images whose pixels make up exactly the model's input.",
    )


def choose_preprocessing(
    body: Body,
    clean: CleanSet,
    chosen: IntArray,
    options: ScanOptions,
    progress: Progress = no_progress,
) -> tuple[Preprocessing, PreprocessingChoice | None]:
    """Return the preprocessing that was given, or the one with the best clean accuracy.

    Raises:
        PreprocessingError: The preset is unknown or the file is wrong.
    """
    if options.preprocess is not None:
        return load_preprocessing(options.preprocess), None
    image = body.anatomy.view.image
    shape = image_shape(image, clean)
    order = np.random.default_rng(options.seed).permutation(chosen)
    contenders = _candidates(image, clean, shape.channels)
    tries = 0

    def predict(option: Preprocessing, some: Pixels) -> NDArray[np.float32]:
        nonlocal tries
        logits = body.logits(_apply(option, some, image))
        tries += 1
        # The finals of the best few, on more images, take about as long as the first round.
        progress("ways of preprocessing tried", tries, max(tries, 2 * len(contenders)))
        return logits

    def trial(images: int, some: Sequence[Preprocessing]) -> PreprocessingChoice:
        rows = np.sort(order[:images])
        pixels = clean.images.read(rows, shape)
        return infer_preprocessing(pixels, clean.labels[rows], some, predict)

    choice = trial(_TRIAL_IMAGES, contenders)
    if choice.runner_up is not None and choice.too_close and len(order) > choice.images:
        choice = trial(_CLOSE_CALL_IMAGES, (choice.best, choice.runner_up))
    return choice.best, choice


def _candidates(image: ImageInput, clean: CleanSet, channels: int) -> tuple[Preprocessing, ...]:
    if clean.preprocessed or image.numpy_dtype() == np.uint8:
        options: tuple[Preprocessing, ...] = (PRESETS["raw"],)
    else:
        options = candidates(channels)
    if image.layout != "flat" or channels == 1:
        return options
    layouts = ("flat-chw", "flat")
    return tuple(
        replace(option, name=f"{option.name}, {layout}", layout=layout)
        for option in options
        for layout in layouts
    )


def _apply(preprocessing: Preprocessing, pixels: Pixels, image: ImageInput) -> NDArray[Any]:
    return preprocessing.apply(pixels, preprocessing.layout or image.layout, image.numpy_dtype())


def observe(
    body: Body,
    clean: CleanSet,
    chosen: IntArray,
    preprocessing: Preprocessing,
    progress: Progress,
) -> Observation:
    """Run the model once over the images, a block at a time, so that memory stays bounded.

    Raises:
        ImageError: An image is unreadable or does not fit the model.
        InferenceError: The model does not run.
    """
    image = body.anatomy.view.image
    shape = image_shape(image, clean)
    size = _BLOCK_BYTES // (4 * shape.height * shape.width * shape.channels)
    parts = []
    for start in range(0, len(chosen), max(size, 1)):
        rows = chosen[start : start + max(size, 1)]
        pixels = clean.images.read(rows, shape, preprocessing.resize)
        parts.append(body.observe(_apply(preprocessing, pixels, image)))
        progress("clean images through the model", start + len(rows), len(chosen))
    logits, layers, sides = zip(*parts, strict=True)
    return Observation(
        clean.labels[chosen],
        np.concatenate(logits),
        np.concatenate(layers),
        {name: np.concatenate([part[name] for part in sides]) for name in sides[0]},
    )
