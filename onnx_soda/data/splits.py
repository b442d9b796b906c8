"""Which part of a data set is taken, and how its arrays are called."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import PurePath

from onnx_soda.errors import DatasetFileError

__all__ = [
    "UNSPLIT",
    "choose_splits",
    "find_pairs",
    "split_note",
    "split_of_file",
    "split_of_folder",
]

UNSPLIT = ""
"""Stands for the one part of a data set that has no splits."""

# Best first: a model fits its training images better than it knows their classes.
_PREFERENCE = ("test", "val", "train")

_ASKABLE = ("auto", "train", "val", "test", "all")

_SYNONYMS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "t10k": "test",  # MNIST's own name for its ten thousand test images
    "val": "val",
    "valid": "val",
    "validation": "val",
}


def choose_splits(available: Collection[str], asked: str, name: str) -> tuple[str, ...]:
    """Apply the split rule: "auto" takes test images where there are any, else val, else train.

    Args:
        available: Splits that the data set has ("train", "val", "test"), or only ``UNSPLIT``.
        asked: "auto", "train", "val", "test" or "all".
        name: File name to show.

    Returns:
        The splits to read.

    Raises:
        DatasetFileError: ``asked`` is unknown, or the data set does not have that split.
    """
    if asked not in _ASKABLE:
        raise DatasetFileError(
            f"there is no split {asked!r} to take from {name}", f"Use one of {', '.join(_ASKABLE)}."
        )
    named = [split for split in _PREFERENCE if split in available]
    if asked == "all":
        return tuple(named) or (UNSPLIT,)
    if asked == "auto":
        return (named[0] if named else UNSPLIT,)
    if asked not in named:
        has = f"only {' and '.join(named)}" if named else "no splits"
        raise DatasetFileError(
            f"{name} has no {asked} split: it has {has}", "Ask for one that is there, or for auto."
        )
    return (asked,)


def split_note(splits: tuple[str, ...]) -> tuple[str, ...]:
    """Return the sentence for the report that says which splits were taken, if there are splits."""
    if splits == (UNSPLIT,):
        return ()
    return (f"Images are those of the {' and '.join(splits)} split{'s'[: len(splits) - 1]}.",)


def split_of_folder(name: str) -> str:
    """Return the split that a folder or group of this name holds, ``UNSPLIT`` for none."""
    return _SYNONYMS.get(name.lower(), UNSPLIT)


def split_of_file(name: str) -> str:
    """Return the split that a word in a file name tells (``t10k-images-idx3-ubyte``)."""
    words = re.split(r"[^a-z0-9]+", PurePath(name).name.lower())
    found = [_SYNONYMS[word] for word in words if word in _SYNONYMS]
    return found[0] if found else UNSPLIT


def find_pairs(names: Iterable[str], file: str) -> dict[str, tuple[str, str]]:
    """Find the arrays of images and labels by their names, whatever the case.

    Known are ``x_train``/``y_train``, ``train_images``/``train_labels`` (and so for test and val),
    ``images``/``labels``, ``image``/``label`` and ``x``/``y``.

    Args:
        names: Names of the arrays in a file.
        file: File name to show.

    Returns:
        For each split, or for ``UNSPLIT`` alone, the names of images and labels as in the file.

    Raises:
        DatasetFileError: Images without labels, or two names that differ in case only.
    """
    stored: dict[str, str] = {}
    for name in names:
        if stored.setdefault(name.lower(), name) != name:
            raise DatasetFileError(
                f"{file} has both {stored[name.lower()]!r} and {name!r}",
                "Rename or remove one of them.",
            )
    pairs: dict[str, tuple[str, str]] = {}
    for split, images, labels in _conventions():
        if images not in stored or split in pairs:
            continue
        if labels not in stored:
            raise DatasetFileError(
                f"{file} has {stored[images]!r} but no {labels!r}", "Store the labels beside them."
            )
        pairs[split] = (stored[images], stored[labels])
    return {split: pair for split, pair in pairs.items() if split != UNSPLIT} or pairs


def _conventions() -> Iterable[tuple[str, str, str]]:
    """Yield (split, name of the images, name of the labels)."""
    for split in _PREFERENCE:
        yield split, f"x_{split}", f"y_{split}"
        yield split, f"{split}_images", f"{split}_labels"
    yield UNSPLIT, "images", "labels"
    yield UNSPLIT, "image", "label"
    yield UNSPLIT, "x", "y"
