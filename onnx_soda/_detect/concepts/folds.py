"""Splits the clean images into two folds, so that no image is judged by what it chose or taught.

Reference heads that are fitted to one fold are read on the other; concepts that one fold chooses
are scored on the other. Both ways round, so every image counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.sources import IntArray

FOLDS = 2
# With so many classes or fewer the search compares all with all; `likeness.kinds_of` sorts more.
MOST_OF_ONE_KIND = 128
# Images of each class and fold, and of all classes together in a fold: that reference heads are
# fitted to, that a pair is looked at with, that concepts are tried on for a pair, and that all
# concepts are tried on. The search's time grows with the last.
_FIT, _ALL_FIT = 200, 3000
_CONFIRM, _ALL_CONFIRM, LEAST_CONFIRM = 60, 1000, 8
_SEARCH, _ALL_SEARCH, _LEAST_SEARCH = 20, 500, 4
_SCREEN, _ALL_SCREEN, LEAST_SCREEN = 4, 130, 2
# The same with many classes: in all that heads are fitted to, and of a victim.
_MANY_FIT, _MANY_CONFIRM = 6000, 30


@dataclass(frozen=True, eq=False)
class Folds:
    """Clean images in two folds.

    Attributes:
        rows: Positions in the clean set, sorted; those that reference heads are fitted to.
        fold: 0 or 1 for each of them.
        confirm: Which of them the best pairs are looked at with, where the class is the victim.
        others: Which of those stand for the classes that are not.
        search: Which of those concepts are tried on, where the class is the victim.
        screen: Which of those all concepts are tried on.
        turn: Place of each in its class and fold, from 0, in the order in which they are taken.
    """

    rows: IntArray
    fold: IntArray
    confirm: NDArray[np.bool_]
    others: NDArray[np.bool_]
    search: NDArray[np.bool_]
    screen: NDArray[np.bool_]
    turn: IntArray

    def of(self, chosen: NDArray[np.bool_]) -> Folds:
        """Return some of the images."""
        return Folds(
            self.rows[chosen],
            self.fold[chosen],
            self.confirm[chosen],
            self.others[chosen],
            self.search[chosen],
            self.screen[chosen],
            self.turn[chosen],
        )


def in_both_folds(labels: IntArray) -> IntArray:
    """Return the classes that have an image for each fold."""
    present, counts = np.unique(labels, return_counts=True)
    return present[counts >= FOLDS]


def shown_of_each(classes: int) -> int:
    """Return how many images of each class and fold all changes can be shown on.

    Args:
        classes: Number of classes that there are images of.
    """
    return min(_SEARCH, max(_ALL_SEARCH // classes, _LEAST_SEARCH))


def split_into_folds(labels: IntArray, rng: np.random.Generator) -> Folds:
    """Split the images of each class evenly; a class with fewer than there are folds is left out.

    Args:
        labels: Shape (images,).
        rng: Chooses.
    """
    present = in_both_folds(labels)
    many = len(present) > MOST_OF_ONE_KIND
    fit = min(_FIT, max((_MANY_FIT if many else _ALL_FIT) // len(present), 1))
    confirm = min(_CONFIRM, max(_ALL_CONFIRM // len(present), LEAST_CONFIRM))
    # Where panels have a few classes beside a victim, images of the victim cost little.
    looked_at = _MANY_CONFIRM if many else confirm
    search = _SEARCH if many else shown_of_each(len(present))
    screen = min(_SCREEN, max(_ALL_SCREEN // len(present), LEAST_SCREEN))
    rows, fold, turn = [], [], []
    for label in present:
        own = rng.permutation(np.flatnonzero(labels == label))[: FOLDS * fit]
        rows.append(own)
        fold.append(np.arange(len(own)) % FOLDS)
        turn.append(np.arange(len(own)) // FOLDS)
    together, turns = np.concatenate(rows), np.concatenate(turn)
    order = np.argsort(together)
    turns = turns[order]
    # With many classes some of them stand for all.
    few = rng.permutation(present)[: max(_ALL_CONFIRM // confirm, 1)]
    return Folds(
        together[order],
        np.concatenate(fold)[order],
        turns < looked_at,
        (turns < confirm) & np.isin(labels[together[order]], few),
        turns < search,
        turns < screen,
        turns,
    )


def group_by_fold(labels: IntArray, fold: IntArray, classes: int) -> NDArray[np.float32]:
    """Group images by fold and class, for `ProbeImages`.

    Returns:
        Shape (images, folds x classes): first the classes of fold 0. Each group's shares add up
        to 1.
    """
    membership = np.zeros((len(labels), FOLDS * classes), dtype=np.float32)
    membership[np.arange(len(labels)), fold * classes + labels] = 1
    shares: NDArray[np.float32] = membership / np.maximum(membership.sum(axis=0), 1)
    return shares
