"""Finds out how a model wants its images prepared, by trying: the right way has the best accuracy.

Successive halving (Jamieson and Talwalkar, AISTATS 2016), in two rounds: all options on a few
images, the three best ones on all. The same way finds the size of images where a model takes any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from onnx_soda._data.class_map import best_order
from onnx_soda._data.preprocessing import Preprocessing
from onnx_soda._data.sources import ImageShape, IntArray, Pixels
from onnx_soda._errors import ImageError, LabelError, PreprocessingError
from onnx_soda._model.inputs import ImageInput

# Images of the first round. The standard error of an accuracy over 48 images is under 7.5 points;
# wrong options that matter are mostly further off, and the second round decides between near ones.
_FIRST_IMAGES = 48

_FINALISTS = 3

Predict = Callable[[Preprocessing, Pixels], NDArray[np.float32]]


@dataclass(frozen=True)
class PreprocessingChoice:
    """The preprocessing that a model does best with.

    Args:
        best: The choice.
        accuracy: Its accuracy, 0..1.
        runner_up: The second best, None where there was one option only.
        runner_up_accuracy: Its accuracy.
        images: Number of images that both accuracies are over.
        disagreements: Images to which only one of the two gives the true class.
    """

    best: Preprocessing
    accuracy: float
    runner_up: Preprocessing | None
    runner_up_accuracy: float | None
    images: int
    disagreements: int = 0

    @property
    def too_close(self) -> bool:
        """Whether the two accuracies differ by less than two standard errors (McNemar's test)."""
        if self.runner_up_accuracy is None:
            return False
        lead = (self.accuracy - self.runner_up_accuracy) * self.images
        return lead <= 2 * math.sqrt(self.disagreements)

    def notes(self) -> tuple[str, ...]:
        """Return a sentence where the choice is not certain."""
        if self.runner_up is None or self.runner_up_accuracy is None or not self.too_close:
            return ()
        return (
            f"The preprocessing is not certain: {self.best.name} ({self.accuracy:.1%} of "
            f"{self.images} images) and {self.runner_up.name} ({self.runner_up_accuracy:.1%}) are "
            "too close to tell apart. Set `preprocess`, if you know it.",
        )


@dataclass(frozen=True)
class _Trial:
    option: Preprocessing
    right: NDArray[np.bool_]
    in_any_order: float
    classes: int

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


def infer_preprocessing(
    pixels: Pixels, labels: IntArray, options: Sequence[Preprocessing], predict: Predict
) -> PreprocessingChoice:
    """Choose the preprocessing with the best accuracy.

    Equal accuracies are decided by the order of the options, not by the likelihood of the true
    class: that favours options that raise the contrast, and so the confidence. Where all accuracies
    are too low, the classes may have another order: the best one is then what has the best accuracy
    in any order. Options that cannot
    feed the model at all (``predict`` raises PreprocessingError, as for floats into a uint8 input)
    are left out.

    Args:
        pixels: (n, height, width, channels), values 0..255.
        labels: (n,) true classes.
        options: What to try, the most usual first.
        predict: Gives the logits (m, classes) of m images prepared in one way.

    Returns:
        The choice, with the runner-up.

    Raises:
        LabelError: No images, not one label per image, or labels beyond the model's classes.
        PreprocessingError: No option, or none that can feed the model.
    """
    count = len(pixels)
    if count == 0 or len(labels) != count:
        raise LabelError(
            f"there are {len(labels)} labels for {count} images to infer the preprocessing from",
            "Give one label per image, and at least one image.",
        )
    finalists = list(options)
    if count > _FIRST_IMAGES and len(finalists) > _FINALISTS:
        # Spread, since images are often sorted by class.
        spread = np.arange(_FIRST_IMAGES) * count // _FIRST_IMAGES
        first = _ranked(finalists, pixels[spread], labels[spread], predict)
        finalists = [trial.option for trial in first[:_FINALISTS]]
    ranking = _ranked(finalists, pixels, labels, predict)
    best, second = ranking[0], ranking[1] if len(ranking) > 1 else None
    return PreprocessingChoice(
        best.option,
        best.accuracy,
        second.option if second else None,
        second.accuracy if second else None,
        count,
        int((best.right != second.right).sum()) if second else 0,
    )


def _ranked(
    options: Sequence[Preprocessing], pixels: Pixels, labels: IntArray, predict: Predict
) -> list[_Trial]:
    """Try the options, best first."""
    tried = [_tried(option, pixels, labels, predict) for option in options]
    trials = [trial for trial in tried if trial is not None]
    if not trials:
        raise PreprocessingError(
            "no preprocessing to choose from fits the model",
            "Describe the model's preprocessing in a JSON file.",
        )
    poor = max(trial.accuracy for trial in trials) < needed_accuracy(
        1 / trials[0].classes, len(labels)
    )
    # sorted is stable: earlier options win ties.
    return sorted(trials, key=lambda trial: -(trial.in_any_order if poor else trial.accuracy))


def _tried(
    option: Preprocessing, pixels: Pixels, labels: IntArray, predict: Predict
) -> _Trial | None:
    try:
        logits = np.asarray(predict(option, pixels), dtype=np.float64)
    except PreprocessingError:
        return None
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise LabelError(
            f"labels go from {labels.min()} to {labels.max()}, the model has "
            f"{logits.shape[1]} classes",
            "Use the data set whose classes the model was trained on.",
        )
    # A wrong option may overflow the network; what is no number is no answer.
    usable = np.asarray(np.isfinite(logits).all(axis=1))
    answers, classes = logits.argmax(axis=1), logits.shape[1]
    _, fitting = best_order(labels[usable], answers[usable], classes)
    return _Trial(option, usable & (answers == labels), fitting / len(labels), classes)


# Sides that classifiers are trained on: from MNIST's 28 and CIFAR's 32 to Inception's 299.
_SIDES = (224, 256, 299, 192, 160, 128, 96, 64, 48, 32, 28)
# Larger images are photographs as a camera stores them, and no classifier takes them as they are.
_LARGEST_SIDE = 512

Size = tuple[int, int]
"""Height and width."""


def candidate_sizes(
    native: ImageShape | None, height: int | None, width: int | None
) -> tuple[Size, ...]:
    """Return the sizes that a model which takes any may have been trained on, the likeliest first.

    Args:
        native: Shape of the clean images, where they agree on one: it is tried first, then squares,
            the nearest first, and its own aspect at the same sides.
        height: Height that the graph insists on; None for any.
        width: As height.
    """
    sizes = [(side, side) for side in _SIDES]
    if native is not None:
        high, wide = native.height, native.width
        least = min(high, wide)
        sizes.sort(key=lambda size: abs(math.log(size[0] / least)))
        if high != wide:
            sizes += [(round(high * s / least), round(wide * s / least)) for s, _ in sizes]
        if max(high, wide) <= _LARGEST_SIDE:
            sizes.insert(0, (high, wide))
    return tuple(dict.fromkeys((height or high, width or wide) for high, wide in sizes))


def image_shape(image: ImageInput, native: ImageShape | None, size: Size | None) -> ImageShape:
    """Return the size in which a model wants its images.

    Args:
        image: The model's input.
        native: Shape of the clean images, where they agree on one.
        size: Height and width where the model takes any; None where its graph says which.

    Raises:
        ImageError: The model takes a flat vector that the images do not fill.
    """
    if image.layout == "flat":
        return _flat_shape(image.features or 0, native)
    height, width = size or (image.height or 0, image.width or 0)
    channels = image.channels or (native.channels if native else 3)
    return ImageShape(height, width, channels)


def check_size(size: Size | None, image: ImageInput) -> None:
    """Make sure that a size asked for is the one that the graph takes.

    Args:
        size: Height and width; None for whatever it takes.
        image: The model's input, of one size.

    Raises:
        ImageError: It is not.
    """
    if size is not None and size != (image.height, image.width):
        taken = "a flat vector" if image.layout == "flat" else f"{image.height} x {image.width}"
        raise ImageError(
            f"the model takes images of {taken}, and `size` says {size[0]} x {size[1]}",
            "Leave `size` out: the file says which size the model takes.",
        )


def _flat_shape(features: int, native: ImageShape | None) -> ImageShape:
    if native and native.height * native.width * native.channels == features:
        return native
    size = f"{native.height} x {native.width} x {native.channels}" if native else "mixed sizes"
    raise ImageError(
        f"the model takes {features} values per image and the clean set has images of {size}",
        "Give images whose pixels make up exactly the model's input.",
    )


@dataclass(frozen=True)
class SizeChoice:
    """The size of images that a model does best with.

    Args:
        best: Height and width.
        accuracy: Its accuracy, 0..1.
        runner_up: The second best; None where the model takes no other size that was tried.
        runner_up_accuracy: Its accuracy.
        images: Number of images that both accuracies are over.
    """

    best: Size
    accuracy: float
    runner_up: Size | None
    runner_up_accuracy: float | None
    images: int

    def notes(self) -> tuple[str, ...]:
        """Return a sentence that says that the size was chosen, and how."""
        high, wide = self.best
        text = (
            f"The model takes images of any size. {high} x {wide} was inferred: it gives "
            f"{self.accuracy:.1%} of {self.images} images their label"
        )
        if self.runner_up is None:
            return (f"{text}, and the model runs on no other size that was tried.",)
        high, wide = self.runner_up
        return (
            f"{text}, and the next best, {high} x {wide}, {self.runner_up_accuracy:.1%}. Set "
            "`size`, if you know it.",
        )


def infer_size(
    sizes: Sequence[Size], images: int, accuracy: Callable[[Size, int], float | None]
) -> SizeChoice | None:
    """Choose the size with the best accuracy: all on a few images, the three best ones on all.

    Args:
        sizes: What to try; the earlier wins where two are alike.
        images: Number of images that there are to try on.
        accuracy: Tells it for a size, on the first so many images; None where the model does not
            run on it.

    Returns:
        The choice; None where the model runs on none.
    """

    def ranked(some: Sequence[Size], count: int) -> list[tuple[Size, float]]:
        tried = [(size, accuracy(size, count)) for size in some]
        usable = [(size, share) for size, share in tried if share is not None]
        return sorted(usable, key=lambda one: -one[1])

    count = min(_FIRST_IMAGES, images)
    ranking = ranked(sizes, count)
    if count < images and len(ranking) > 1:
        count = images
        ranking = ranked([size for size, _ in ranking[:_FINALISTS]], count)
    if not ranking:
        return None
    (best, share), *others = ranking
    second, next_share = others[0] if others else (None, None)
    return SizeChoice(best, share, second, next_share, count)


# How far between guessing and always the clean accuracy has to be, and how surely. A third is
# chosen, not measured: under it most images of a class say nothing about what turns it.
_ABOVE_GUESSING, _DOUBT = 1 / 3, 0.05


def needed_accuracy(guessing: float, images: int) -> float:
    """Return the least clean accuracy that is surely above chance.

    It is the least one at which a model that is right no more often than a third of the way from
    guessing to always would be seen in under 5 % of clean sets of this size (a binomial test). For
    100 images of each class: 0.73 for two classes, 0.43 for ten, 0.36 for 43.

    Args:
        guessing: Accuracy of the best guess that looks at no image.
        images: Number of clean images.
    """
    level = guessing + _ABOVE_GUESSING * (1 - guessing)
    right = np.arange(images + 1)
    by_luck = bdtrc(right - 1, images, level)  # so many right answers, or more
    enough = right[by_luck <= _DOUBT]
    return float(enough[0] / images) if len(enough) else 1.0
