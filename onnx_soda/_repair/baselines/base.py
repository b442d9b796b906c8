"""What removers of other authors have in common.

A rival is one file with a subclass of `Rival`, and one line in `REMOVERS`. It knows no pair of
classes: it is taught by clean images alone, and never by infected ones. What comes before and after
it is SODA's, so that its result is proved by the same images.

Most of these methods have a setting that trades the backdoor against accuracy, and their papers
leave it to the reader: a threshold, a share to prune, a learning rate. The rule here is the same
for all, and one that a defender can follow: the last fold of the clean images is held out, and the
strongest setting is taken that loses no more on it than `max_accuracy_drop`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnx_soda._errors import RepairError
from onnx_soda._repair.base import Removal, Remover
from onnx_soda._repair.preparation import ImageSet, Preparation

Setting = TypeVar("Setting")

# Accuracies are shares of whole numbers of images; rounding must not decide.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Examples:
    """Clean images, as the model takes them, with their classes.

    Attributes:
        images: Shape (images, ...).
        labels: Shape (images,).
    """

    images: NDArray[Any]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, rows: NDArray[np.intp]) -> Examples:
        """Return some of them."""
        return Examples(self.images[rows], self.labels[rows])

    def drawn(self, most: int, rng: np.random.Generator) -> Examples:
        """Return so many of them at most, drawn without order."""
        return self if len(self) <= most else self.at(rng.permutation(len(self))[:most])


def clean_of(folds: Sequence[ImageSet]) -> Examples:
    """Return the clean images of folds, and nothing else of them."""
    return Examples(
        np.concatenate([fold.clean for fold in folds]),
        np.concatenate([fold.labels for fold in folds]),
    )


def share_right(scores: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Return the share of images whose class has the largest score.

    Args:
        scores: Shape (images, classes).
        labels: Shape (images,).
    """
    return float((scores.argmax(axis=1) == labels).mean())


@dataclass(frozen=True)
class Judged:
    """What the accuracy on the images held out says of settings.

    Attributes:
        before: Accuracy of the unchanged model.
        floor: The most that may be lost.
        best: The highest accuracy of what was tried; None where nothing is to be measured, since
            all training diverged.
    """

    before: float
    floor: float
    best: float | None = None

    def allows(self, accuracy: float) -> bool:
        """Tell whether so much accuracy is enough."""
        return accuracy >= self.before - self.floor - _ROUNDING


def strongest(
    tries: Iterable[tuple[Setting, float | None]], judged: Judged
) -> tuple[Setting | None, Judged]:
    """Return the first setting that keeps the accuracy; None where none does.

    Args:
        tries: Settings with the accuracy that they leave, the strongest first; None where training
            diverges. What comes after the one that is taken is not tried.
        judged: What is allowed.
    """
    best = judged.best
    for setting, accuracy in tries:
        if accuracy is None:
            continue
        best = accuracy if best is None else max(best, accuracy)
        if judged.allows(accuracy):
            return setting, Judged(judged.before, judged.floor, best)
    return None, Judged(judged.before, judged.floor, best)


class Rival(Remover):
    """A remover of other authors.

    Attributes:
        title: What it is called, for people.
        source: Authors, venue and year.
        trains: What it changes, in a word: the scope in reports.
        published: Whether it runs with the parameters of the published comparison.
    """

    title: ClassVar[str]
    source: ClassVar[str]
    trains: ClassVar[str]

    def __init__(self, ready: Preparation) -> None:
        super().__init__(ready)
        self.published = ready.options.parameters == "published"

    @property
    def facts(self) -> Mapping[str, Any]:
        """See `Remover.facts`."""
        return {"scope": self.trains}

    def judged(self, before: float) -> Judged:
        """Return what is allowed.

        Args:
            before: Accuracy of the unchanged model on the images held out.
        """
        return Judged(before, self.ready.options.max_accuracy_drop)

    def told(self, *sentences: str) -> tuple[str, ...]:
        """Return notes: which method it was, and sentences on what it did."""
        whose = "the published comparison" if self.published else "its paper"
        return (f"{self.title} ({self.source}), with the parameters of {whose}.", *sentences)

    def failed(self, judged: Judged, *sentences: str) -> Removal:
        """Return that nothing keeps the accuracy."""
        if judged.best is None:
            reason = (
                f"{self.title} diverges with every setting that was tried: its loss is higher "
                "than by guessing."
            )
        else:
            reason = (
                f"Every result of {self.title} loses more than {judged.floor:.1%} of clean "
                f"accuracy on images held out (before {judged.before:.1%}, at best "
                f"{judged.best:.1%})."
            )
        return Removal(None, reason, notes=self.told(*sentences))

    def tell(self, done: int, total: int) -> None:
        """Tell how far the removal is; raises `Halted` where the time is over."""
        self.ready.progress(self.title, done, total)


def check_any_batch(ready: Preparation, what: str) -> None:
    """Make sure that a model takes any number of images.

    Args:
        ready: The model.
        what: What needs that, as in "NAD needs".

    Raises:
        RepairError: It insists on one number.
    """
    batch = ready.suspect.anatomy.view.image.batch
    if batch is not None:
        raise RepairError(
            f"{what} a model that takes any number of images at once, and this one takes {batch}",
            "Export it with a free batch axis.",
        )
