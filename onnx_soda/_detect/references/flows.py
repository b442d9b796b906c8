"""What a model makes of the bank: where the images of each class go under each concept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.datasets import CleanSet
from onnx_soda._detect.concepts.examination import FoldedImages, count_by_fold, fewest_of
from onnx_soda._detect.concepts.experiment import MOST_CLASSES, why_not_tried
from onnx_soda._detect.concepts.folds import Folds, shown_of_each, split_into_folds
from onnx_soda._detect.concepts.judge import Judge
from onnx_soda._detect.concepts.probe import Probe
from onnx_soda._detect.references.bank import BANK_VERSION, concept_bank
from onnx_soda._errors import ImageError
from onnx_soda._model.load import OnnxModel
from onnx_soda._options import Progress, ReferenceFlows, ScanOptions, no_progress
from onnx_soda._suspect import Suspect

# The same images for every model, whatever the seed of a scan: flows of two models differ by what
# the models are, not by which images they were shown.
_SEED = 0
# Sums of softmaxes in float32 may be a little over 1.
_ROUNDING = 1e-3


@dataclass(frozen=True, eq=False)
class Flows:
    """Where images go under each concept of the bank.

    Attributes:
        shares: Mean probability by concept, fold, class and answer, shape (1 + concepts, folds,
            classes, classes), float32. The first is without any concept.
        images: Of each fold and class, shape (folds, classes).
        bank: Version of the bank.
    """

    shares: NDArray[np.float32]
    images: NDArray[np.int64]
    bank: int = BANK_VERSION

    @property
    def fewest(self) -> int:
        """Images of the class with the fewest, in the smaller fold, of classes that have any."""
        return fewest_of(self.images)

    def comparable(self, other: Flows) -> bool:
        """Tell whether another model was shown as many images under the same concepts."""
        same = self.bank == other.bank and self.shares.shape == other.shares.shape
        return same and bool((self.images == other.images).all())

    def in_order(self, order: Sequence[int]) -> Flows:
        """Return the flows of some classes alone, in another order.

        Args:
            order: For each class wanted what it is here.
        """
        chosen = self.shares[..., order, :][..., order]
        return Flows(chosen, self.images[:, order], self.bank)

    @staticmethod
    def of(heard: ReferenceFlows) -> Flows:
        """Return the flows of a reference that was asked.

        Raises:
            ValueError: It has said something that makes no sense.
        """
        shares = np.frombuffer(heard.shares, "<f4").astype(np.float32)
        if shares.size != np.prod(heard.shape) or len(set(heard.shape[2:])) != 1:
            raise ValueError("its numbers are not as many as they should be")
        if not ((shares >= 0) & (shares <= 1 + _ROUNDING)).all():
            raise ValueError("its numbers are no shares")
        images = np.array(heard.images, np.int64).reshape(heard.shape[1:3])
        return Flows(shares.reshape(heard.shape), images, heard.bank)


# Flows of suspects, as long as these live.
_KEPT: WeakKeyDictionary[Suspect, Flows] = WeakKeyDictionary()


def hear(
    model: OnnxModel, clean: CleanSet, options: ScanOptions, progress: Progress = no_progress
) -> ReferenceFlows:
    """Ask a reference model what it makes of the bank.

    Args:
        model: The reference.
        clean: The clean images of the scan.
        options: Those of the scan; what they say of preprocessing, layer and logits is about the
            suspect, and left out.
        progress: Called as it goes on.

    Raises:
        SodaError: It cannot be run on these images.
    """
    order = options.reference_classes
    renamed = clean if order is None else _renamed(clean, order)
    suspect = Suspect(model, renamed, options.for_references(), progress)
    if order is not None and max(order) >= (suspect.classes or 0):
        raise ImageError(
            f"it has {suspect.classes} classes, and class {max(order)} was asked for as one of its"
        )
    if (untried := why_not_tried(renamed, suspect.classes or 0, MOST_CLASSES)) is not None:
        raise ImageError(untried.rstrip("."))
    accuracy = suspect.examined.accuracy or 0.0
    found = bank_flows(
        suspect,
        lambda done, of: progress("a reference's concepts", done, of),
        bank_folds(clean),
    )
    found = found if order is None else found.in_order(order)
    concepts, folds, classes, _ = found.shares.shape
    return ReferenceFlows(
        file=model.file,
        sha256=model.sha256,
        accuracy=accuracy,
        preprocessing=suspect.preprocessing.name,
        bank=found.bank,
        shape=(concepts, folds, classes, classes),
        shares=found.shares.astype("<f4").tobytes(),
        images=tuple(tuple(map(int, row)) for row in found.images),
        external_data=bool(model.external_data),
    )


def _renamed(clean: CleanSet, order: Sequence[int]) -> CleanSet:
    """Return clean images with the class numbers that a reference has for them."""
    if int(clean.labels.max()) >= len(order):
        raise ImageError(
            f"reference_classes names {len(order)} classes, and the clean images have a class "
            f"{clean.labels.max()}"
        )
    return replace(clean, labels=np.array(order, np.int64)[clean.labels], class_names=None)


def bank_folds(clean: CleanSet) -> Folds:
    """Split the clean images as they are for the bank."""
    return split_into_folds(clean.labels, np.random.default_rng(_SEED))


def own_flows(suspect: Suspect, advance: Callable[[int, int], None] | None = None) -> Flows:
    """Show a suspect the bank, once: a scan, a repair and its proof ask for the same.

    Args:
        suspect: The model, with clean images.
        advance: As for `bank_flows`, which says what is raised.
    """
    if suspect not in _KEPT:
        _KEPT[suspect] = bank_flows(suspect, advance)
    return _KEPT[suspect]


def bank_flows(
    suspect: Suspect,
    advance: Callable[[int, int], None] | None = None,
    folds: Folds | None = None,
) -> Flows:
    """Show a model the clean images under every concept of the bank.

    Args:
        suspect: The model, with clean images.
        advance: Called with the number of concepts shown and the number in all.
        folds: Which images; by the labels of the model's clean set where not given.

    Raises:
        InferenceError: The model does not run.
        ImageError: An image is unreadable or does not fit the model.
    """
    assert suspect.clean is not None  # noqa: S101 - the caller has looked
    classes = suspect.classes or 0
    folds = folds or bank_folds(suspect.clean)
    # With many classes a search has more of a victim than all concepts can be shown on.
    present = len(np.unique(suspect.clean.labels[folds.rows]))
    folds = folds.of(folds.search & (folds.turn < shown_of_each(present)))
    rows, fold = folds.rows, folds.fold
    labels = suspect.clean.labels[rows]
    images = FoldedImages(suspect.pixels(rows), labels, fold)
    probe = Probe(suspect, images.by_class(np.arange(classes)), (), classes)
    shown = [None, *concept_bank(images.pixels.shape[1])]
    shares = []
    for done, concept in enumerate(shown):
        # The model's own, of model and reference heads.
        shares.append(Judge.by_fold(probe.flows(concept))[:, 0].astype(np.float32))
        if advance:
            advance(done, len(shown) - 1)
    return Flows(np.stack(shares), count_by_fold(labels, fold, classes))
