"""Finding out how a model wants its images."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_soda._data.inference import (
    PreprocessingChoice,
    SizeChoice,
    candidate_sizes,
    infer_preprocessing,
    infer_size,
    needed_accuracy,
)
from onnx_soda._data.preprocessing import PRESETS, Preprocessing, candidates
from onnx_soda._data.sources import ImageShape, Pixels
from onnx_soda._errors import LabelError, PreprocessingError

CLASSES = 8


def labelled_pixels(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images whose class is told by brightness, bluish or reddish by turns; sorted by class."""
    labels = np.sort(np.arange(count) % CLASSES)
    noise = np.random.default_rng(0).integers(0, 20, (count, 4, 4, 3))
    brightness = 20 + 25 * np.arange(CLASSES)[:, None]
    colours = brightness + np.where(brightness // 25 % 2 == 0, (-20, 0, 20), (20, 0, -20))
    return (colours[labels][:, None, None] + noise).astype(np.uint8), labels


class NearestMean:
    """A model that knows the mean value of each class under one preprocessing."""

    def __init__(
        self, trained_with: Preprocessing, pixels: Pixels, labels: NDArray[np.int64]
    ) -> None:
        values = self.values(trained_with, pixels)
        self.means = np.stack([values[labels == c].mean(axis=0) for c in range(CLASSES)])
        self.seen: list[tuple[str, int]] = []

    @staticmethod
    def values(recipe: Preprocessing, pixels: Pixels) -> NDArray[np.float32]:
        values: NDArray[np.float32] = recipe.apply(pixels, "NHWC", np.dtype(np.float32))
        return np.asarray(values.mean(axis=(1, 2)))

    def __call__(self, recipe: Preprocessing, pixels: Pixels) -> NDArray[np.float32]:
        self.seen.append((recipe.name, len(pixels)))
        distance = self.values(recipe, pixels)[:, None] - self.means
        return np.asarray(-(distance**2).sum(axis=2))


@pytest.mark.parametrize("name", ["unit", "signed", "raw", "imagenet", "caffe", "unit-bgr"])
def test_the_preprocessing_of_training_is_found(name: str) -> None:
    pixels, labels = labelled_pixels(400)
    model = NearestMean(PRESETS[name], pixels, labels)
    choice = infer_preprocessing(pixels, labels, candidates(3), model)
    assert choice.best.name == name
    assert choice.accuracy == 1.0
    assert choice.images == 400
    assert choice.runner_up is not None
    assert choice.runner_up_accuracy is not None
    assert choice.runner_up_accuracy <= choice.accuracy
    # Successive halving: all options on 48 images, three of them on all.
    assert [count for _, count in model.seen] == [48] * len(candidates(3)) + [400] * 3


def test_few_images_need_one_round() -> None:
    pixels, labels = labelled_pixels(40)
    model = NearestMean(PRESETS["signed"], pixels, labels)
    choice = infer_preprocessing(pixels, labels, candidates(3), model)
    assert choice.best.name == "signed"
    assert len(model.seen) == len(candidates(3))


def test_a_single_option_has_no_runner_up() -> None:
    pixels, labels = labelled_pixels(8)
    model = NearestMean(PRESETS["raw"], pixels, labels)
    choice = infer_preprocessing(pixels, labels, [PRESETS["raw"]], model)
    assert (choice.runner_up, choice.runner_up_accuracy) == (None, None)


def test_ties_go_to_the_first_and_not_to_the_surer_option() -> None:
    """Pixels from 0 to 255 in the place of 0 to 1 make a network surer, not more right."""
    pixels, labels = labelled_pixels(8)
    sureness = {"unit": 1.0, "signed": 5.0, "raw": 255.0}

    def predict(recipe: Preprocessing, images: Pixels) -> NDArray[np.float32]:
        del images
        return np.eye(CLASSES, dtype=np.float32)[labels] * np.float32(sureness[recipe.name])

    options = [PRESETS[name] for name in sureness]
    choice = infer_preprocessing(pixels, labels, options, predict)
    assert choice.best.name == "unit"
    assert choice.runner_up is PRESETS["signed"]
    (doubt,) = choice.notes()
    assert "unit (100.0% of 8 images) and signed (100.0%) are too close" in doubt


def test_logits_that_are_no_numbers_lose() -> None:
    pixels, labels = labelled_pixels(8)

    def predict(recipe: Preprocessing, images: Pixels) -> NDArray[np.float32]:
        value = np.nan if recipe.name == "raw" else 0.0
        return np.full((len(images), CLASSES), value, dtype=np.float32)

    choice = infer_preprocessing(pixels, labels, [PRESETS["raw"], PRESETS["unit"]], predict)
    assert choice.best.name == "unit"


def test_options_that_cannot_feed_the_model_are_left_out() -> None:
    pixels, labels = labelled_pixels(200)

    def predict(recipe: Preprocessing, images: Pixels) -> NDArray[np.float32]:
        recipe.apply(images, "NHWC", np.dtype(np.uint8))
        return np.zeros((len(images), CLASSES), dtype=np.float32)

    choice = infer_preprocessing(pixels, labels, candidates(3), predict)
    assert choice.best.name == "raw"
    assert choice.runner_up is PRESETS["raw-bgr"]
    with pytest.raises(PreprocessingError, match="no preprocessing to choose from"):
        infer_preprocessing(pixels, labels, [PRESETS["unit"]], predict)


def test_labels_that_do_not_fit() -> None:
    pixels, labels = labelled_pixels(8)

    def predict(recipe: Preprocessing, images: Pixels) -> NDArray[np.float32]:
        del recipe
        return np.zeros((len(images), 2), dtype=np.float32)

    with pytest.raises(LabelError, match="labels go from 0 to 7, the model has 2 classes"):
        infer_preprocessing(pixels, labels, candidates(3), predict)
    with pytest.raises(LabelError, match="7 labels for 8 images"):
        infer_preprocessing(pixels, labels[:7], candidates(3), predict)


@pytest.mark.parametrize(
    ("lead", "disagreements", "close"), [(3, 3, True), (4, 5, True), (5, 5, False), (5, 9, True)]
)
def test_a_lead_counts_where_it_is_over_two_standard_errors(
    lead: int, disagreements: int, close: bool
) -> None:
    """McNemar: of n images that only one of two options gets right, the lead varies by sqrt(n)."""
    unit, raw = PRESETS["unit"], PRESETS["raw"]
    choice = PreprocessingChoice(unit, 0.9, raw, 0.9 - lead / 200, 200, disagreements)
    assert choice.too_close == close


def test_a_choice_without_a_runner_up_is_never_close() -> None:
    assert not PreprocessingChoice(PRESETS["raw"], 0.5, None, None, 10).too_close
    assert PreprocessingChoice(PRESETS["raw"], 0.5, None, None, 10).notes() == ()
    sure = PreprocessingChoice(PRESETS["unit"], 0.9, PRESETS["raw"], 0.5, 200, 100)
    assert sure.notes() == ()


def test_the_sizes_tried_are_those_of_the_images_and_usual_ones() -> None:
    assert candidate_sizes(ImageShape(32, 32, 3), None, None)[:3] == ((32, 32), (28, 28), (48, 48))
    # Another aspect: the images' own size first, squares, then the same aspect at usual sides.
    wide = candidate_sizes(ImageShape(64, 96, 3), None, None)
    assert wide[:2] == ((64, 96), (64, 64))
    assert {(32, 48), (224, 336)} < set(wide)
    # A camera's photographs are not tried as they are stored; their aspect is.
    assert (3000, 4000) not in candidate_sizes(ImageShape(3000, 4000, 3), None, None)
    assert (224, 299) in candidate_sizes(ImageShape(3000, 4000, 3), None, None)
    assert candidate_sizes(None, None, None)[0] == (224, 224)
    # A graph that insists on a height keeps it.
    assert {height for height, _ in candidate_sizes(ImageShape(32, 32, 3), 48, None)} == {48}


def test_the_best_size_is_taken_and_those_that_do_not_run_are_left_out() -> None:
    """(1, 1) leads on the first 48 images; on all 200 (2, 2) does. (3, 3) does not run."""
    shares = {((1, 1), 48): 0.9, ((2, 2), 48): 0.8, ((1, 1), 200): 0.6, ((2, 2), 200): 0.7}
    found = infer_size([(1, 1), (2, 2), (3, 3)], 200, lambda size, n: shares.get((size, n)))
    assert found == SizeChoice((2, 2), 0.7, (1, 1), 0.6, 200)
    assert infer_size([(3, 3)], 200, lambda _size, _n: None) is None
    alone = infer_size([(3, 3), (1, 1)], 48, lambda size, n: shares.get((size, n)))
    assert alone == SizeChoice((1, 1), 0.9, None, None, 48)
    assert "runs on no other size" in alone.notes()[0]


@pytest.mark.parametrize(
    ("classes", "right", "images", "enough"),
    [
        # A third of the way from guessing to always: 0.667 for two classes, 0.349 for 43.
        (2, 100, 200, False),
        (2, 150, 200, True),
        (43, 1935, 4300, True),  # 45 %
        (43, 86, 4300, False),  # 2 %: guessing
        (10, 350, 1000, False),  # 35 %, and the level is 40 %
        (10, 500, 1000, True),
        (3, 4, 4, True),  # nothing is surely above chance here; all right is the most there can be
    ],
)
def test_the_accuracy_needed_is_above_chance(
    classes: int, right: int, images: int, enough: bool
) -> None:
    assert (right / images >= needed_accuracy(1 / classes, images)) == enough


def test_the_accuracy_needed_is_that_of_a_binomial_test() -> None:
    """Two classes, 30 images: by luck 25 or more are right in 3.6 %, 24 or more in 8.9 %."""
    level = 2 / 3
    tail = {
        least: sum(comb(30, k) * level**k * (1 - level) ** (30 - k) for k in range(least, 31))
        for least in (24, 25)
    }
    assert tail[25] < 0.05 < tail[24]
    assert needed_accuracy(0.5, 30) == 25 / 30
