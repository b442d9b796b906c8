"""Which class of the model each label of the clean set is: as told, or as its answers show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from onnx_soda._data.sources import IntArray, SubsetSource
from onnx_soda._errors import LabelError
from onnx_soda._words import class_label

if TYPE_CHECKING:
    from onnx_soda._data.datasets import CleanSet

# Names, and pairs of classes, told in one message.
_NAMED, _PAIRS = 8, 12
# Images of a class of which it is told what most of them are taken for.
_FEWEST_IMAGES = 10


def mapped(clean: CleanSet, class_map: Mapping[str, int | None]) -> CleanSet:
    """Return a clean set with the model's class numbers.

    Args:
        clean: The clean set.
        class_map: For each label the class of the model; None leaves its images out.

    Raises:
        LabelError: The map names a label that the clean set does not have, or none for one that it
            has.
    """
    found = {
        int(number): _label(int(number), clean.class_names) for number in np.unique(clean.labels)
    }
    known = {name: number for number, name in enumerate(clean.class_names or ())}
    known = known or {name: number for number, name in found.items()}
    new = {known[name]: number for name, number in _matched(class_map, known, clean.file)}
    missing = [name for number, name in found.items() if number not in new]
    if missing:
        raise LabelError(
            f"the class map says nothing of {_listed(missing)}, which {clean.file} has",
            "Give each label a class of the model, or null to leave its images out.",
        )
    rows = np.flatnonzero([new[int(label)] is not None for label in clean.labels])
    return replace(
        clean,
        labels=np.array([new[int(clean.labels[row])] for row in rows], np.int64),
        images=clean.images if len(rows) == len(clean.labels) else SubsetSource(clean.images, rows),
        class_names=_renamed(clean.class_names, new),
        notes=(*clean.notes, *_notes(clean, found, new)),
    )


def _label(number: int, names: Sequence[str] | None) -> str:
    return names[number] if names and number < len(names) else str(number)


def _matched(
    class_map: Mapping[str, int | None], known: Mapping[str, int], file: str
) -> Iterator[tuple[str, int | None]]:
    """Yield the labels of a map as the clean set has them, with the classes."""
    strangers, seen = [], set()
    for given, number in class_map.items():
        plain = str(int(given)) if given.isascii() and given.isdecimal() else given
        name = given if given in known else plain
        if name not in known:
            strangers.append(given)
            continue
        if name in seen:
            raise LabelError(
                f"the class map names the label {given!r} more than once", "Name each label once."
            )
        seen.add(name)
        yield name, number
    if strangers:
        raise LabelError(
            f"the class map names {_listed(strangers)}, which {file} does not have: its labels are "
            f"{_listed(list(known))}",
            "Write the labels as the clean set has them: names of classes, or numbers.",
        )


def _renamed(names: Sequence[str] | None, new: Mapping[int, int | None]) -> tuple[str, ...] | None:
    """Return names by the model's numbers; a class without a name of its own has its number."""
    if names is None:
        return None
    moved = {number: names[old] for old, number in new.items() if number is not None}
    return tuple(moved.get(number, str(number)) for number in range(max(moved) + 1))


def _notes(
    clean: CleanSet, found: Mapping[int, str], new: Mapping[int, int | None]
) -> tuple[str, ...]:
    without = [name for number, name in found.items() if new[number] is None]
    if not without:
        return ("The labels were given the classes that the class map says.",)
    images = sum(new[int(label)] is None for label in clean.labels)
    return (
        "The labels were given the classes that the class map says.",
        f"Left out by the class map: {images} images of {_listed(without)}.",
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


@dataclass(frozen=True)
class Relabelling:
    """What a model calls the classes of a clean set, where that is another order of them.

    Attributes:
        pairs: For each class of the clean set what the model calls it, and the share of its images
            of which that is so.
        accuracy: Share of all images that the model gives their class, in this order.
        names: Names of the clean set's classes.
    """

    pairs: tuple[tuple[int, int, float], ...]
    accuracy: float
    names: tuple[str, ...] | None = None

    def sentence(self) -> str:
        """Return what is told of it."""
        moved = [
            f"{class_label(label, self.names)} -> {answer} ({share:.0%})"
            for label, answer, share in self.pairs
            if label != answer
        ]
        more = f" and {len(moved) - _PAIRS} more" if len(moved) > _PAIRS else ""
        return (
            f"The labels look permuted: {', '.join(moved[:_PAIRS])}{more}. In this order the model "
            f"gives {self.accuracy:.1%} of the images their label. If it is right, give it as "
            "`class_map`."
        )

    def class_map(self, given: Mapping[str, int | None] | None) -> dict[str, int | None]:
        """Return it as a class map.

        Args:
            given: The class map that the labels were read with, which it is to replace.
        """
        order = {label: answer for label, answer, _ in self.pairs}
        if given is None:
            return {_label(label, self.names): answer for label, answer in order.items()}
        return {
            name: None if number is None else order.get(number, number)
            for name, number in given.items()
        }


def find_relabelling(
    labels: IntArray, answers: NDArray[np.int64], classes: int
) -> Relabelling | None:
    """Tell whether a model's answers are the labels in another order.

    The labels are permuted where more than half of the images of each label that moves get its new
    class.

    Args:
        labels: Shape (images,).
        answers: The model's classes, of the same shape.
        classes: Number of classes of the model.

    Returns:
        The order; None where the labels are in order, or in none.
    """
    order, fitting = best_order(labels, answers, classes)
    of_label = np.bincount(labels, minlength=classes)
    pairs = tuple(
        (int(label), int(order[label]), float((answers[labels == label] == order[label]).mean()))
        for label in np.flatnonzero(of_label)
    )
    moved = [(label, share) for label, answer, share in pairs if label != answer]
    clear = all(share > 0.5 and of_label[label] >= _FEWEST_IMAGES for label, share in moved)
    return Relabelling(pairs, fitting / len(labels)) if moved and clear else None


def best_order(labels: IntArray, answers: NDArray[np.int64], classes: int) -> tuple[IntArray, int]:
    """Give each label a class of the model, no two the same, so that most answers are right.

    Args:
        labels: Shape (images,).
        answers: The model's classes, of the same shape.
        classes: Number of classes of the model.

    Returns:
        The class for each number, and how many answers are right with it.
    """
    # Costs, as floats: these are used as they are, and of 4,000 classes a copy has 128 MB.
    costs = np.zeros((classes, classes))
    np.subtract.at(costs, (labels, answers), 2)
    # Where an answer fits as well as another, the number itself is taken.
    costs[np.diag_indices(classes)] -= 1
    _, order = linear_sum_assignment(costs)
    return order, int((order[labels] == answers).sum())
