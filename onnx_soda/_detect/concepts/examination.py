"""A suspect with its reference heads, and the clean images of both folds.

Most changes do nothing for most pairs. So all changes are shown on a few images of each class, the
screen. What does well there for a pair is shown on all the images of its victim, and on a sample of
the other classes, which tells the damage. A panel is such a set of images with what scores it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.sources import IntArray
from onnx_soda._detect.concepts.concept import Donor
from onnx_soda._detect.concepts.folds import FOLDS, MOST_OF_ONE_KIND, Folds, group_by_fold
from onnx_soda._detect.concepts.judge import Judge
from onnx_soda._detect.concepts.layers import StyleLayer
from onnx_soda._detect.concepts.likeness import CLASSES_OF_A_KIND
from onnx_soda._detect.concepts.probe import Probe, ProbeImages
from onnx_soda._detect.concepts.reference import ReferenceHead, trust_in
from onnx_soda._detect.concepts.score import FloatArray, Kinds
from onnx_soda._detect.concepts.styles import Change
from onnx_soda._suspect import Suspect

# Images that stand for the classes other than a victim, in a fold: in all, and of each at least.
_FEW, _LEAST_FEW = 30, 2
# Of many classes, those of other kinds on a panel: whether the target is where all such images go.
STRANGERS = 32
# Of panels that are kept; a panel made anew costs one pass of its images.
PANEL_BYTES = 128 * 2**20
# Pixels of further images of a victim; 300 of the usual 224 x 224.
_MORE_PIXELS = 300 * 224 * 224


@dataclass(frozen=True, eq=False)
class FoldedImages:
    """Images of both folds.

    Attributes:
        pixels: Shape (images, channels, height, width), from 0 to 1.
        labels: Shape (images,).
        fold: Shape (images,).
    """

    pixels: NDArray[np.float32]
    labels: IntArray
    fold: IntArray

    def __add__(self, other: FoldedImages) -> FoldedImages:
        return FoldedImages(
            np.concatenate([self.pixels, other.pixels]),
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.fold, other.fold]),
        )

    def of(self, chosen: NDArray[np.bool_]) -> FoldedImages:
        """Return some of them."""
        return FoldedImages(self.pixels[chosen], self.labels[chosen], self.fold[chosen])

    @property
    def present(self) -> IntArray:
        """The classes that there are images of, sorted."""
        return np.unique(self.labels)

    def by_class(self, rows: IntArray) -> ProbeImages:
        """Group them by fold and class.

        Args:
            rows: The classes, sorted: a group of each for either fold.
        """
        groups = group_by_fold(np.searchsorted(rows, self.labels), self.fold, len(rows))
        return ProbeImages(self.pixels, groups, self.fold)

    def one_by_one(self) -> ProbeImages:
        """Make each a group of its own."""
        return ProbeImages(self.pixels, np.eye(len(self.pixels), dtype=np.float32), self.fold)

    def donors(self) -> list[Donor]:
        """Return the overall colour and contrast of each."""
        return [
            (tuple(map(float, image.mean(axis=(1, 2)))), tuple(map(float, image.std(axis=(1, 2)))))
            for image in self.pixels
        ]


@dataclass(frozen=True, eq=False)
class Examination:
    """The suspect with what it is compared with.

    Attributes:
        suspect: The classifier.
        heads: Reference heads.
        fitted: Images that they were fitted to, by fold and class, shape (folds, classes).
        likeness: Of classes, shape (classes, classes).
        classes: Number of classes.
        kinds: Of classes, shape (classes,); None where all are of one kind.
    """

    suspect: Suspect
    heads: tuple[ReferenceHead, ...]
    fitted: NDArray[np.int64]
    likeness: FloatArray
    classes: int
    kinds: Kinds = None
    _opened: dict[str, Probe] = field(default_factory=dict)

    @property
    def fewest(self) -> int:
        """Images that the heads were fitted to, of the class with the fewest, in one fold."""
        return fewest_of(self.fitted)

    def is_beside(self, victim: int, labels: IntArray) -> NDArray[np.bool_]:
        """Tell which images a victim is looked at beside: of its kind, and of a few other classes.

        Args:
            victim: The victim class.
            labels: Classes of the images; where all are of one kind, all but the victim's are.
        """
        other: NDArray[np.bool_] = labels != victim
        if self.kinds is None:
            return other
        strangers = np.flatnonzero(self.fitted.any(axis=0) & (self.kinds != self.kinds[victim]))
        some = np.random.default_rng(victim).permutation(strangers)[:STRANGERS]
        kind = self.kinds[labels] == self.kinds[victim]
        beside: NDArray[np.bool_] = (kind & other) | np.isin(labels, some)
        return beside

    def open(self, images: FoldedImages, style_layer: StyleLayer | None = None) -> Panel:
        """Put images, grouped by fold and class, before the classifier.

        Args:
            images: The images.
            style_layer: Where styles may be changed.
        """
        probe = self.probe(images.by_class(images.present), style_layer)
        return Panel(probe, self.judge(Judge.by_fold(probe.flows(None)), images))

    def probe(self, images: ProbeImages, style_layer: StyleLayer | None = None) -> Probe:
        """Put images in groups before the classifier; a session is opened once for all images."""
        name = style_layer.name if style_layer else ""
        if name in self._opened:
            return self._opened[name].over(images)
        opened = Probe(self.suspect, images, self.heads, self.classes, style_layer)
        return self._opened.setdefault(name, opened)

    def judge(self, unchanged: FloatArray, images: FoldedImages) -> Judge:
        """Return what scores on some images are made from; nothing is usual yet."""
        rows = images.present
        return Judge(
            unchanged=unchanged,
            images=count_by_fold(images.labels, images.fold, self.classes)[:, rows],
            # A head is read on the fold that it was not fitted to.
            fitted=self.fitted[::-1, rows],
            likeness=self.likeness,
            trust=trust_in(self.heads),
            usual=np.zeros((FOLDS, self.classes, self.classes)),
            rows=rows,
            kinds=self.kinds,
        )


@dataclass(frozen=True, eq=False)
class Panel:
    """Images before the classifier, and what scores where they go."""

    probe: Probe
    judge: Judge

    def flows(self, change: Change | None) -> FloatArray:
        """Return the mean probabilities by fold and class, shape (folds, 1 + heads, ...)."""
        return Judge.by_fold(self.probe.flows(change))


class Panels:
    """The screen, and for each victim and fold a panel of all its images.

    Args:
        examination: The classifier.
        screen: Images that all changes are shown on.
        reader: Decodes the images of a victim.
        style_layer: Where styles are changed, if they are.
    """

    def __init__(
        self,
        examination: Examination,
        screen: FoldedImages,
        reader: Reader,
        style_layer: StyleLayer | None = None,
    ) -> None:
        self._examination, self._reader, self._style_layer = examination, reader, style_layer
        self._images = screen
        self._few = screen.of(_few_of_each(screen))
        self.screen = examination.open(screen, style_layer)
        self._kept: dict[tuple[int, int], Panel] = {}

    def with_style(self, layer: StyleLayer) -> Panels:
        """Return the same images, for styles in a layer."""
        return Panels(self._examination, self._images, self._reader, layer)

    def of(self, victim: int, fold: int) -> Panel:
        """Return a panel of the images of a victim in a fold, with a few of each other class."""
        place = (victim, fold)
        if place not in self._kept:
            others = self._few.of(
                (self._few.fold == fold) & self._examination.is_beside(victim, self._few.labels)
            )
            chosen = self._reader.searched(victim, fold) + others
            if (len(self._kept) + 1) * chosen.pixels.nbytes > PANEL_BYTES:
                self._kept.clear()
            self._kept[place] = self._examination.open(chosen, self._style_layer)
        return self._kept[place]


def few_of_each_class(classes: int) -> int:
    """Return how many images of each class and fold stand for it on panels of other victims."""
    return max(_FEW // classes, _LEAST_FEW)


def classes_beside(classes: int) -> int:
    """Return how many classes stand beside a victim on a panel, about."""
    if classes <= MOST_OF_ONE_KIND:
        return classes - 1
    return CLASSES_OF_A_KIND + STRANGERS


def _few_of_each(images: FoldedImages) -> NDArray[np.bool_]:
    """Choose a few images of each class and fold."""
    each = few_of_each_class(len(images.present))
    seen: Counter[tuple[int, int]] = Counter()
    chosen = np.zeros(len(images.labels), np.bool_)
    for row, place in enumerate(zip(images.labels.tolist(), images.fold.tolist(), strict=True)):
        seen[place] += 1
        chosen[row] = seen[place] <= each
    return chosen


@dataclass(frozen=True, eq=False)
class Reader:
    """Decodes images of the two folds."""

    suspect: Suspect
    folds: Folds

    def read(self, chosen: NDArray[np.bool_]) -> FoldedImages:
        """Decode some of them.

        Args:
            chosen: Which, by their place in the folds.
        """
        rows = self.folds.rows[chosen]
        return FoldedImages(self.suspect.pixels(rows), self.labels[rows], self.folds.fold[chosen])

    def searched(self, label: int, fold: int) -> FoldedImages:
        """Decode the images of a class in a fold that changes are tried on."""
        return self.read(self._own(label) & (self.folds.fold == fold) & self.folds.search)

    def confirmed(self, label: int) -> FoldedImages:
        """Decode the images of a class that it is first looked at with."""
        return self.read(self._own(label) & self.folds.confirm)

    def count_confirmed(self, label: int) -> int:
        """Return how many images of a class it is first looked at with."""
        return int((self._own(label) & self.folds.confirm).sum())

    def more_of(self, label: int) -> FoldedImages:
        """Decode the images of a class that are left, as many as fit."""
        assert self.suspect.clean is not None  # noqa: S101 - the folds are of its images
        image = self.suspect.image_shape(self.suspect.clean)
        most = _MORE_PIXELS // (image.height * image.width)
        own = self._own(label)
        left = np.flatnonzero(own & ~self.folds.confirm)[:most]
        known, further = self.read(np.isin(np.arange(len(own)), left)), self._further(label)
        further = further[: max(most - len(left), 0)]
        if not len(further):
            return known
        fold = np.arange(len(further)) % FOLDS
        return known + FoldedImages(self.suspect.pixels(further), self.labels[further], fold)

    def count(self, label: int) -> int:
        """Return how many images of a class there are to look closer with."""
        return int(self._own(label).sum()) + len(self._further(label))

    def _further(self, label: int) -> IntArray:
        """Return images of a class that nothing was fitted to: of many classes few are read."""
        if len(np.unique(self.labels)) <= MOST_OF_ONE_KIND:
            return np.empty(0, np.int64)
        return np.setdiff1d(np.flatnonzero(self.labels == label), self.folds.rows)

    def _own(self, label: int) -> NDArray[np.bool_]:
        """Tell which images of the folds are of a class."""
        own: NDArray[np.bool_] = self.labels[self.folds.rows] == label
        return own

    @property
    def labels(self) -> IntArray:
        """Classes of all clean images."""
        assert self.suspect.clean is not None  # noqa: S101 - the folds are of its images
        return self.suspect.clean.labels


def count_by_fold(labels: IntArray, fold: IntArray, classes: int) -> NDArray[np.int64]:
    """Return the number of images, shape (folds, classes)."""
    return np.stack([np.bincount(labels[fold == f], minlength=classes) for f in range(FOLDS)])


def fewest_of(fitted: NDArray[np.int64]) -> int:
    """Return those of the class with the fewest, in the smaller fold, of classes that have any."""
    return int(fitted[:, fitted.any(axis=0)].min())
