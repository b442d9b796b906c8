"""What twins are trained on: a clean set, divided, and whether it will do. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnx_soda._data.datasets import CleanSet
from onnx_soda._data.sources import ImageShape, IntArray, Pixels
from onnx_soda._errors import ImageError
from onnx_soda._words import class_label

# Two of ten are held out: with fewer, nobody could say whether the class was learned.
_FEWEST_OF_A_CLASS = 10
# Of the whole set; more would take hours, and a scan uses 400 of each class at most.
_MOST_IMAGES = 20_000
# Pixels. Smaller images have nothing to convolve; larger ones are made as small as this.
_SMALLEST_SIDE, _LARGEST_SIDE = 8, 96
# Where the images of a set differ in size.
_USUAL_SHAPE = ImageShape(64, 64, 3)
# Images shown to a twin, each showing counted. In trials on the bundled digits 60,000 gave one or
# two points more accuracy than 30,000, in twice the time.
_SHOWN = 40_000
# A large clean set is gone over a few times at least; a small one is not gone over forever.
_FEWEST_EPOCHS, _MOST_EPOCHS = 5, 100
# Classes named in a sentence.
_NAMED = 5


@dataclass(frozen=True, eq=False)
class Material:
    """A clean set as twins are trained on it.

    Attributes:
        clean: The clean set.
        seed: Chooses the images held out.
    """

    clean: CleanSet
    seed: int = 0

    @cached_property
    def classes(self) -> int:
        """Number of classes: those with images, or with names where these are more."""
        return max(int(self.clean.labels.max()) + 1, len(self.clean.class_names or ()))

    @property
    def bound(self) -> float:
        """Accuracy from which a twin is sound: half way from guessing to always right."""
        return (1 + 1 / self.classes) / 2

    @cached_property
    def shape(self) -> ImageShape:
        """Shape of the images that twins take.

        Raises:
            ImageError: They are too small, or have other than one or three channels.
        """
        native = self.clean.images.native or _USUAL_SHAPE
        height, width, channels = native.height, native.width, native.channels
        if channels not in (1, 3) or min(height, width) < _SMALLEST_SIDE:
            raise ImageError(
                f"the images are {height} x {width} with {channels} channel(s), and twins take "
                f"images from {_SMALLEST_SIDE} x {_SMALLEST_SIDE} on, with one or three channels",
                "Train reference models of your own for such images.",
            )
        factor = min(1.0, _LARGEST_SIDE / max(height, width))
        high, wide = (max(round(factor * side), _SMALLEST_SIDE) for side in (height, width))
        return ImageShape(high, wide, channels)

    @cached_property
    def _division(self) -> tuple[IntArray, IntArray]:
        return divide(self.clean.labels, self.seed, _MOST_IMAGES)

    @property
    def train(self) -> IntArray:
        """Positions to train on, in increasing order."""
        return self._division[0]

    @property
    def held_out(self) -> IntArray:
        """Positions that only measure, in increasing order."""
        return self._division[1]

    @property
    def usual_epochs(self) -> int:
        """How often to go over the images, so that it takes minutes."""
        epochs = round(_SHOWN / max(len(self.train), 1))
        return int(np.clip(epochs, _FEWEST_EPOCHS, _MOST_EPOCHS))

    def read(self, rows: IntArray) -> Pixels:
        """Read images, (n, height, width, channels), values 0 to 255."""
        return self.clean.images.read(rows, self.shape)

    def problem(self) -> str:
        """Say why the clean set will not do; nothing where it will."""
        counts = np.bincount(self.clean.labels, minlength=self.classes)
        few = np.flatnonzero(counts < _FEWEST_OF_A_CLASS)
        if not few.size:
            return ""
        names = self.clean.class_names
        named = [f"{counts[n]} of class {class_label(int(n), names)}" for n in few[:_NAMED]]
        more = f" and few of {few.size - _NAMED} more classes" if few.size > _NAMED else ""
        return (
            f"The clean set is too small for twins: they need {_FEWEST_OF_A_CLASS} images of each "
            f"class at least, and it has {', '.join(named)}{more}."
        )

    def notes(self) -> tuple[str, ...]:
        """Return sentences on what was done with the images."""
        native, shape, notes = self.clean.images.native, self.shape, list(self.clean.notes)
        if native != shape:
            found = f"{native.height} x {native.width}" if native else "of several sizes"
            notes.append(
                f"The images are {found}; twins take them at {shape.height} x {shape.width}."
            )
        left = len(self.clean.labels) - len(self.train) - len(self.held_out)
        if left:
            notes.append(f"{left} images are not used, so that training ends in minutes.")
        return tuple(notes)


def divide(labels: IntArray, seed: int, most: int) -> tuple[IntArray, IntArray]:
    """Hold out every fifth image of each class, by lot.

    Args:
        labels: (n,) classes.
        seed: The same one gives the same parts.
        most: Images to use; of more, the same number of each class as far as there are enough.

    Returns:
        Positions to train on, and positions held out, each in increasing order.
    """
    rng = np.random.default_rng(seed)
    each = _most_of_each(np.bincount(labels), most)
    train, held_out = [], []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))[:each]
        held_out.append(rows[: len(rows) // 5])
        train.append(rows[len(rows) // 5 :])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(held_out))


def _most_of_each(counts: IntArray, most: int) -> int:
    """Return how many images of a class may be used, so that all are `most` together."""
    each = int(counts.max())
    while each > 1 and int(np.minimum(counts, each).sum()) > most:
        each -= max(each // 50, 1)
    return each
