"""The suspect: one classifier as it is examined, with its preprocessing and its clean images.

Made once per command. What takes time is done when it is first asked for, and kept: the graph is
read once, sessions are opened once, the preprocessing is inferred once. Detectors, the repair and
the new scan after it take the same one. Pixels are read here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.class_map import Relabelling, find_relabelling
from onnx_soda._data.datasets import CleanSet
from onnx_soda._data.inference import (
    PreprocessingChoice,
    Size,
    SizeChoice,
    candidate_sizes,
    check_size,
    image_shape,
    infer_preprocessing,
    infer_size,
    needed_accuracy,
)
from onnx_soda._data.preprocessing import (
    PRESETS,
    Preprocessing,
    candidates,
    load_preprocessing,
)
from onnx_soda._data.sources import ImageShape, IntArray, Pixels
from onnx_soda._data.splits import balanced_sample, check_labels, check_several
from onnx_soda._errors import ImageError, InferenceError, NotAClassifierError
from onnx_soda._model.anatomy import Anatomy, dissect_view
from onnx_soda._model.graph import GraphView, view_graph
from onnx_soda._model.inputs import ImageInput
from onnx_soda._model.load import OnnxModel
from onnx_soda._model.parts import Body, Tail
from onnx_soda._model.runtime import Arrays, Meter
from onnx_soda._options import Progress, ReferenceFlows, ScanOptions, no_progress
from onnx_soda._results import Halted
from onnx_soda._system import Stopwatch

FloatPixels = NDArray[np.float32]
"""Images, shape (images, channels, height, width), from 0 to 1."""

# Images on which candidate preprocessings are compared first, and, where the two best ones are
# then too close to call, those two again.
_TRIAL_IMAGES, _CLOSE_CALL_IMAGES = 256, 1024
# Bytes of the images read at once. Larger than a batch of small images: compressed files are read
# chunk by chunk, and a chunk that two blocks share is read twice.
_BLOCK_BYTES = 32 * 2**20
# Bytes of logits and hidden values that are kept of the sample. Of more the model is run again
# where they are needed: a scan may take 300 MB over the model and a batch, for many images too.
_KEPT_BYTES = 32 * 2**20
# Rows of the layer that are kept in any case: some are drawn to tell whether a tail is affine.
_FEW_ROWS = 256
# Bytes of the outputs of the images that are read at once; they are held twice for a moment.
_OUTPUT_BYTES = 16 * 2**20
# Images on which it is measured how fast the model is, before it reads all; the share of the time
# that reading them may take; and images of each class that are read in any case: from as many on a
# class that is misread is told.
_SPEED_IMAGES, READING, FEWEST_READ = 16, 0.25, 10
# Fewer images are read without such a question.
_SOON_READ = 1000
# Images of a class from which it is told what most of them are taken for.
_FEWEST_TO_MISREAD = 10
# Preprocessings with which sizes are compared: the most usual ones. Which size is best does not
# depend on a finer choice.
_SIZE_WAYS = 4


@dataclass(frozen=True, eq=False)
class Observation:
    """What the model makes of some clean images, all of it.

    Attributes:
        labels: Their classes, shape (images,).
        logits: Shape (images, classes).
        layer: Values of the analysed layer, shape (images, *element_shape).
        sides: Further tensors, by name, with as many rows.
    """

    labels: IntArray
    logits: NDArray[np.float32]
    layer: NDArray[Any]
    sides: Arrays

    @property
    def accuracy(self) -> float:
        """Share of the images whose class has the largest logit."""
        return float((self.logits.argmax(axis=1) == self.labels).mean())

    @property
    def bytes(self) -> int:
        """Bytes of all values."""
        arrays = (self.logits, self.layer, *self.sides.values())
        return sum(array.nbytes for array in arrays)


Blocks = Callable[[], Iterator[Observation]]
"""Gives what the model makes of clean images, block by block: by running it again, or as kept."""


@dataclass(frozen=True, eq=False)
class Summary:
    """What the model makes of clean images, in little memory however many they are.

    Attributes:
        labels: Their classes, shape (images,).
        answers: The classes with the largest logit, shape (images,).
        logits: For each class that there are images of, their mean logits, shape (classes,).
        layer: Values of the analysed layer, shape (images, *element_shape); of many the first.
        blocks: Gives all values.
    """

    labels: IntArray
    answers: IntArray
    logits: Mapping[int, NDArray[np.float64]]
    layer: NDArray[Any]
    blocks: Blocks

    def whole(self) -> Observation:
        """Return all values of all images in memory."""
        return joined(self.blocks())

    @property
    def classes(self) -> int:
        """Number of classes of the model."""
        return len(next(iter(self.logits.values())))

    @property
    def accuracy(self) -> float:
        """Share of the images whose class has the largest logit."""
        return float((self.answers == self.labels).mean())

    def misread(self) -> tuple[tuple[int, int, float], ...]:
        """Return the classes of which most images are given one other class.

        Returns:
            Class, the other, and the share; classes with few images are left out.
        """
        found = []
        for label in np.unique(self.labels):
            counts = np.bincount(self.answers[self.labels == label])
            most, share = int(counts.argmax()), float(counts.max() / counts.sum())
            if most != label and share > 0.5 and counts.sum() >= _FEWEST_TO_MISREAD:
                found.append((int(label), most, share))
        return tuple(found)


def joined(blocks: Iterable[Observation]) -> Observation:
    """Return blocks of images as one, all of it in memory."""
    parts = list(blocks)
    return Observation(
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.layer for part in parts]),
        {name: np.concatenate([part.sides[name] for part in parts]) for name in parts[0].sides},
    )


def summarise(blocks: Blocks) -> Summary:
    """Go through what the model makes of clean images once, and keep what is small.

    Args:
        blocks: Gives it; asked again for all values by those who need them.
    """
    labels, answers, kept = list[IntArray](), list[IntArray](), list[Observation]()
    means = dict[int, NDArray[np.float64]]()
    whole, layer = True, np.empty(0, np.float32)
    for block in blocks():
        labels.append(block.labels)
        answers.append(block.logits.argmax(axis=1))
        for label in map(int, np.unique(block.labels)):
            rows = block.logits[block.labels == label]
            means[label] = means.get(label, 0.0) + rows.sum(axis=0, dtype=np.float64)
        layer = layer if len(labels) > 1 else block.layer[:_FEW_ROWS]
        whole = whole and block.bytes + sum(one.bytes for one in kept) <= _KEPT_BYTES
        kept = [*kept, block] if whole else []
    together = np.concatenate(labels)
    counts = np.bincount(together)
    for label, mean in means.items():
        mean /= counts[label]
    if whole:
        layer = np.concatenate([one.layer for one in kept])
    again = (lambda: iter(kept)) if whole else blocks
    ordered = {label: means[label] for label in sorted(means)}
    return Summary(together, np.concatenate(answers), ordered, layer, again)


@dataclass(frozen=True)
class Examined:
    """What was examined, as far as the verdict depends on it.

    Attributes:
        classes: Number of classes of the model; None where it never became known.
        source_classes: Number of classes with clean images.
        fewest_images: Images of the class with the fewest.
        accuracy: Clean accuracy; None without a clean set.
        min_accuracy: Accuracy under which nothing is concluded.
        guessing: Accuracy of guessing, which told `min_accuracy`; None where that was given.
        misread: Classes of which most images are given one other class: the class, the other, and
            the share.
        unexamined_outputs: Names of the model's outputs that are not computed from the scores.
        relabelling: The order in which the model has the classes, where its answers show that it is
            another than that of the labels.
    """

    classes: int | None
    source_classes: int
    fewest_images: int
    accuracy: float | None
    min_accuracy: float
    misread: tuple[tuple[int, int, float], ...] = ()
    unexamined_outputs: tuple[str, ...] = ()
    guessing: float | None = None
    relabelling: Relabelling | None = None

    @property
    def too_inaccurate(self) -> bool:
        """Whether the clean accuracy is too low for any conclusion."""
        return self.accuracy is not None and self.accuracy < self.min_accuracy


@dataclass(frozen=True, eq=False)
class Suspect:
    """A classifier as it is examined.

    Attributes:
        model: The model, from `load_model`.
        clean: Clean labelled images, from `load_dataset`; None without any.
        options: See `ScanOptions`.
        progress: Called as work goes on.
        known: The preprocessing, where it is known already; else it is the one that the options
            name, or the one with the best clean accuracy.
        references: Other models of the same classes to compare with, or what they were asked.

    Raises:
        LabelError: All clean images are of one class, and missing classes are not allowed.
    """

    model: OnnxModel
    clean: CleanSet | None = None
    options: ScanOptions = ScanOptions()  # noqa: RUF009 - frozen
    progress: Progress = no_progress
    known: Preprocessing | None = None
    references: tuple[OnnxModel | ReferenceFlows, ...] = ()

    def __post_init__(self) -> None:
        if self.clean is not None and not self.options.allow_missing_classes:
            check_several(self.clean.labels, self.clean.file)

    def with_model(self, model: OnnxModel) -> Suspect:
        """Return another model with the same images and the same preprocessing."""
        return replace(self, model=model, known=self.preprocessing)

    @cached_property
    def view(self) -> GraphView:
        """The graph, prepared.

        Raises:
            ModelError: It contradicts itself, or is over a limit.
        """
        return view_graph(self.model)

    @cached_property
    def anatomy(self) -> Anatomy:
        """Where the classifier takes images, scores classes, and can be intervened on.

        Raises:
            NotAClassifierError: No image input, no scores over classes, or no hidden layer.
            TensorNotFoundError: A name in the options is not in the graph or cannot serve.
        """
        return dissect_view(self.model, self.view, self.options.layer, self.options.logits)

    @cached_property
    def tail(self) -> Tail:
        """From the analysed layer to the logits, as a session."""
        return Tail(self.anatomy, self.options.runtime)

    @cached_property
    def body(self) -> Body:
        """From the image to logits and layer, as a session."""
        return self.body_with(self.tail.needed)

    def body_with(self, sides: Sequence[str]) -> Body:
        """Return a session from the image to logits, layer and further tensors.

        Args:
            sides: Names of those tensors.
        """
        return Body(self.anatomy, self.options.runtime, tuple(sides), self.meter)

    @cached_property
    def meter(self) -> Meter:
        """Counts the images that go through the model."""
        return Meter()

    @cached_property
    def stopwatch(self) -> Stopwatch:
        """Tells how long the scan has taken."""
        return Stopwatch()

    def tell(self, stage: str, done: int, total: int) -> None:
        """Tell how far the work is; see `Progress`.

        Raises:
            Halted: The time is over that a scan was given, or whoever is told asks for an end.
        """
        if self.stopwatch.over:
            raise Halted("aim")
        self.progress(stage, done, total)

    @cached_property
    def classes(self) -> int | None:
        """Number of classes, from the graph or by running it; None where it needs images.

        Raises:
            NotAClassifierError: There is one class.
            ImageError: The model takes a flat vector that the images do not fill.
        """
        known = self.anatomy.logits.classes
        if known is not None:
            return known
        if self.tail.reads_layer_alone:
            zeros = np.zeros((1, *(self.tail.element_shape or ())))
            return _at_least_two(self.tail.logits(zeros).shape[1])
        if self.clean is None:
            return None
        return _at_least_two(self._classes_by_running(self.clean))

    def _classes_by_running(self, clean: CleanSet) -> int:
        """Run the model once, on the first size that it takes where it takes several."""
        image, sizes = self.anatomy.view.image, self._sizes
        check_size(None if image.free_size else self.options.size, image)
        for size in sizes:
            one = image_shape(image, clean.images.native, size)
            shape = image.concrete_shape(1, one.height, one.width, one.channels)
            try:
                return int(self.body.logits(np.zeros(shape, image.numpy_dtype())).shape[1])
            except InferenceError:
                if size == sizes[-1]:
                    raise
        raise AssertionError("there is a size to try")

    @cached_property
    def sample(self) -> IntArray:
        """Positions of the clean images to use, as many of each class as far as there are enough.

        Raises:
            LabelError: Labels outside the model's classes, or classes without images.
        """
        clean = self._images()
        allow_missing = self.options.allow_missing_classes
        check_labels(
            clean.labels,
            self.classes or 0,
            clean.class_names,
            allow_missing=allow_missing,
            is_mapped=self.options.data.class_map is not None,
        )
        rng = np.random.default_rng(self.options.seed)
        return balanced_sample(clean.labels, self.classes or 0, self.options.samples_per_class, rng)

    @property
    def preprocessing(self) -> Preprocessing:
        """How pixels become the model's input.

        Raises:
            PreprocessingError: The preset is unknown or the file is wrong.
        """
        if self.known is not None:
            return self.known
        return replace(self._given or self._inferred.best, size=self.size)

    @cached_property
    def _given(self) -> Preprocessing | None:
        named = self.options.preprocess
        return None if named is None else load_preprocessing(named)

    @property
    def size(self) -> Size | None:
        """Height and width that images are brought to; None where the graph says which.

        Raises:
            ImageError: The options name one, and the graph takes another.
        """
        asked = self.options.size
        if not self.anatomy.view.image.free_size:
            check_size(asked, self.anatomy.view.image)
            return None
        known = self.known or self._given
        if asked is not None or known is None or known.size is None:
            return asked or self.size_choice.best
        return known.size

    @property
    def _sizes(self) -> tuple[Size | None, ...]:
        """What the size may be, the likeliest first."""
        image = self.anatomy.view.image
        if self.options.size is not None or not image.free_size:
            return (self.options.size,)
        return candidate_sizes(self._images().images.native, image.height, image.width)

    @cached_property
    def size_choice(self) -> SizeChoice:
        """How the size was inferred.

        Raises:
            InferenceError: The model runs on no size that was tried.
        """
        clean, image = self._images(), self.anatomy.view.image
        order = np.random.default_rng(self.options.seed).permutation(self.sample)[:_TRIAL_IMAGES]
        given = self.known or self._given
        best: dict[Size, Preprocessing] = {}
        runs = 0

        def predict(way: Preprocessing, pixels: Pixels) -> NDArray[np.float32]:
            return self.body.logits(_apply(way, pixels, image))

        def accuracy(size: Size, images: int) -> float | None:
            nonlocal runs
            runs += 1
            self.tell("sizes of images tried", runs, max(runs, len(sizes)))
            shape, rows = image_shape(image, clean.images.native, size), np.sort(order[:images])
            usual = _candidates(image, clean, shape.channels)[:_SIZE_WAYS]
            ways = (best[size],) if size in best else (given,) if given else usual
            pixels = clean.images.read(rows, shape, ways[0].resize)
            try:
                found = infer_preprocessing(pixels, clean.labels[rows], ways, predict)
            except InferenceError:
                return None
            best[size] = found.best
            return found.accuracy

        sizes = tuple(size for size in self._sizes if size is not None)
        chosen = infer_size(sizes, len(order), accuracy)
        if chosen is None:
            tried = ", ".join(f"{high} x {wide}" for high, wide in sizes)
            raise InferenceError(
                f"{self.model.file} runs on images of none of these sizes: {tried}",
                "Name the size that it was trained on as `size`.",
            )
        return chosen

    @property
    def inferred_size(self) -> SizeChoice | None:
        """How the size was inferred; None where it was known."""
        known = self.known or self._given
        told = self.options.size or (known and known.size)
        free = self.anatomy.view.image.free_size
        return self.size_choice if free and told is None else None

    @property
    def choice(self) -> PreprocessingChoice | None:
        """How the preprocessing was inferred; None where it was given."""
        given = self.known is not None or self.options.preprocess is not None
        return None if given else self._inferred

    @cached_property
    def _inferred(self) -> PreprocessingChoice:
        clean, image = self._images(), self.anatomy.view.image
        shape = self.image_shape(clean)
        order = np.random.default_rng(self.options.seed).permutation(self.sample)
        contenders = _candidates(image, clean, shape.channels)
        tries = 0

        def predict(option: Preprocessing, some: Pixels) -> NDArray[np.float32]:
            nonlocal tries
            logits = self.body.logits(_apply(option, some, image))
            tries += 1
            # The finals of the best few, on more images, take about as long as the first round.
            self.tell("ways of preprocessing tried", tries, max(tries, 2 * len(contenders)))
            return logits

        def trial(images: int, some: Sequence[Preprocessing]) -> PreprocessingChoice:
            rows = np.sort(order[:images])
            pixels = clean.images.read(rows, shape)
            return infer_preprocessing(pixels, clean.labels[rows], some, predict)

        found = trial(_TRIAL_IMAGES, contenders)
        if found.runner_up is not None and found.too_close and len(order) > found.images:
            found = trial(_CLOSE_CALL_IMAGES, (found.best, found.runner_up))
        return found

    @cached_property
    def observation(self) -> Summary | None:
        """What the model makes of the sample of clean images; None without any.

        Raises:
            ImageError: An image is unreadable or does not fit the model.
            InferenceError: The model does not run.
        """
        if self.clean is None or self.classes is None:
            return None
        return self.summary(self.read, self.tell)

    @cached_property
    def read(self) -> IntArray:
        """Positions of the images of the sample that there is time to read; all as a rule.

        How fast the model is, is measured on the first ones. Where all would take too much of the
        time, half of each class is left out, and half of that again.
        """
        rows, labels = self.sample, self._images().labels
        if len(rows) < _SOON_READ:
            return rows
        begin = self.stopwatch.seconds
        self.observe(rows[:_SPEED_IMAGES])
        each = (self.stopwatch.seconds - begin) / len(rows[:_SPEED_IMAGES])
        counts = np.bincount(labels[rows])
        of_each = of_each_that_fit(
            int(counts.max()),
            FEWEST_READ,
            READING * (self.options.aim - self.stopwatch.seconds) / each,
            lambda some: int(np.minimum(counts, some).sum()),
        )
        rng = np.random.default_rng(self.options.seed)
        return balanced_sample(labels, self.classes or 0, of_each, rng)

    @cached_property
    def examined(self) -> Examined:
        """What was examined, as far as the verdict depends on it."""
        observation, others = self.observation, self.anatomy.logits.unexamined
        least, guessing = self.options.min_accuracy, None
        if observation is None:
            return Examined(self.classes, 0, 0, None, least or 0.0, unexamined_outputs=others)
        counts = np.bincount(observation.labels)
        counts = counts[counts > 0]
        if least is None:
            # With images of one class alone, "always this class" would be right.
            usual = counts.max() / counts.sum() if len(counts) > 1 else 0.0
            guessing = max(float(usual), 1 / (self.classes or len(counts)))
            least = needed_accuracy(guessing, int(counts.sum()))
        examined = Examined(
            self.classes,
            len(counts),
            int(counts.min()),
            observation.accuracy,
            least,
            observation.misread(),
            others,
            guessing,
        )
        return replace(examined, relabelling=self._relabelling(observation, examined))

    def _relabelling(self, observation: Summary, examined: Examined) -> Relabelling | None:
        """Return the order in which the model has the classes, where it is surely another one."""
        if not (examined.misread or examined.too_inaccurate):
            return None
        found = find_relabelling(observation.labels, observation.answers, observation.classes)
        if found is None or found.accuracy < examined.min_accuracy:
            return None
        return replace(found, names=self._images().class_names)

    def summary(self, rows: IntArray, progress: Progress = no_progress) -> Summary:
        """Run the model once over clean images, however many, and keep what is small.

        Args:
            rows: Positions in the clean set.
            progress: Called as it goes on.

        Raises:
            ImageError: An image is unreadable or does not fit the model.
            InferenceError: The model does not run.
        """
        return summarise(partial(self._blocks, rows, self.body, progress))

    def observe(
        self, rows: IntArray, body: Body | None = None, progress: Progress = no_progress
    ) -> Observation:
        """Run the model once over some clean images; all that it makes of them is kept.

        Args:
            rows: Positions in the clean set.
            body: A session with other tensors, from `body_with`.
            progress: Called as it goes on.

        Raises:
            ImageError: An image is unreadable or does not fit the model.
            InferenceError: The model does not run.
        """
        return joined(self._blocks(rows, body or self.body, progress))

    def _blocks(self, rows: IntArray, body: Body, progress: Progress) -> Iterator[Observation]:
        """Run the model over clean images; yield what it makes of them, a block at a time."""
        clean = self._images()
        shape = self.image_shape(clean)
        image = shape.height * shape.width * shape.channels
        size = min(_BLOCK_BYTES // image, _OUTPUT_BYTES // max(body.row_elements, 1)) // 4
        size = max(size, 1)
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            seen = body.observe(self._prepared(clean, block, shape))
            yield Observation(clean.labels[block], *seen)
            progress("clean images through the model", start + len(block), len(rows))

    def pixels(self, rows: IntArray | None = None, clean: CleanSet | None = None) -> FloatPixels:
        """Read images, shape (images, channels, height, width), from 0 to 1.

        Args:
            rows: Positions; all where not given.
            clean: Where from, if not from the clean set.

        Raises:
            ImageError: An image is unreadable or does not fit the model.
        """
        clean = clean or self._images()
        chosen = np.arange(len(clean.labels)) if rows is None else rows
        shape = self.image_shape(clean)
        read = clean.images.read(chosen, shape, self.preprocessing.resize)
        levels = read.astype(np.float32) / 255
        return np.ascontiguousarray(levels.transpose(0, 3, 1, 2), np.float32)

    def inputs(self, pixels: FloatPixels) -> NDArray[Any]:
        """Return pixels as the model takes them.

        Args:
            pixels: Shape (images, channels, height, width), from 0 to 1.
        """
        levels = 255 * pixels.transpose(0, 2, 3, 1)
        return _apply(self.preprocessing, levels, self.anatomy.view.image)

    def image_shape(self, clean: CleanSet) -> ImageShape:
        """Return the size in which the model wants its images.

        Raises:
            ImageError: The model takes a flat vector that the images do not fill.
        """
        return image_shape(self.anatomy.view.image, clean.images.native, self.size)

    def _prepared(self, clean: CleanSet, rows: IntArray, shape: ImageShape) -> NDArray[Any]:
        pixels = clean.images.read(rows, shape, self.preprocessing.resize)
        return _apply(self.preprocessing, pixels, self.anatomy.view.image)

    def _images(self) -> CleanSet:
        if self.clean is None:
            raise ImageError("this needs clean images, and none were given", "Give a clean set.")
        return self.clean


def of_each_that_fit(every: int, fewest: int, most: float, images: Callable[[int], int]) -> int:
    """Return how many images of each class to read: all, or halved until there is time for them.

    Args:
        every: Images of the class with the most.
        fewest: Of each class, which are read in any case.
        most: Images that there is time for.
        images: Returns how many so many of each class are in all.
    """
    each = every
    while images(each) > most and each > fewest:
        each = max(each // 2, fewest)
    return each


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


def _at_least_two(classes: int) -> int:
    if classes < 2:
        raise NotAClassifierError(
            f"the output has {classes} class", "A one-score model has no victim and target class."
        )
    return classes
