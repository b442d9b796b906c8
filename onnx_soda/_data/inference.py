"""Finds out how a model wants its images prepared, by trying: the right way has the best accuracy.

Successive halving (Jamieson and Talwalkar, AISTATS 2016), in two rounds: all options on a few
images, the three best ones on all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.preprocessing import Preprocessing
from onnx_soda._data.sources import IntArray, Pixels
from onnx_soda._errors import LabelError, PreprocessingError

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

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())


def infer_preprocessing(
    pixels: Pixels, labels: IntArray, options: Sequence[Preprocessing], predict: Predict
) -> PreprocessingChoice:
    """Choose the preprocessing with the best accuracy.

    Equal accuracies are decided by the order of the options, not by the likelihood of the true
    class: that favours options that raise the contrast, and so the confidence. Options that cannot
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
    # sorted is stable: earlier options win ties.
    return sorted(trials, key=lambda trial: -trial.accuracy)


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
    return _Trial(option, usable & (logits.argmax(axis=1) == labels))
