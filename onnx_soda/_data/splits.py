"""Splits of a clean set: their labels as stored, their images, and the model's classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.arrays import LazyRows, Rows, open_array
from onnx_soda._data.forms import SPLIT_WORDS
from onnx_soda._data.sources import ImageSource, IntArray, JoinedSource
from onnx_soda._errors import DatasetFileError, LabelError

# No classifier has this many classes; a larger number is not a label, and would overflow int64.
_LABEL_LIMIT = 2**31

_ADVICE = "Store labels as whole numbers from 0, shape (N,), or one-hot, shape (N, classes)."


def as_labels(stored: Any, images: int, name: str) -> IntArray:
    """Turn stored labels into class numbers.

    Args:
        stored: Whole numbers of any type, shape (N,) or (N, 1), or one-hot rows (N, classes): an
            array, or an HDF5 data set, which is read only if its length is right.
        images: Number of images, which must be N.
        name: What to call the labels in an error.

    Returns:
        (N,) int64, none negative.

    Raises:
        LabelError: Another type or shape, not N of them, negative or not whole.
    """
    if stored.dtype.kind not in "iubf" or stored.ndim not in {1, 2}:
        raise LabelError(
            f"{name} has elements of type {stored.dtype} in {stored.ndim} dimensions, "
            "which are not labels",
            _ADVICE,
        )
    if len(stored) != images:
        raise LabelError(
            f"{name} has {len(stored)} labels for {images} images",
            "Give one label per image, in the same order.",
        )
    values = np.asarray(stored)
    if values.ndim == 2 and values.shape[1] != 1:
        return _from_one_hot(values, name)
    return _from_numbers(values.reshape(-1), name)


def _from_one_hot(stored: NDArray[Any], name: str) -> IntArray:
    wrong = ((stored != 0).sum(axis=1) != 1) | ((stored == 1).sum(axis=1) != 1)
    if wrong.any():
        raise LabelError(
            f"{name} has {stored.shape[1]} columns, but row {wrong.argmax()} is not one-hot "
            "(a single 1, else 0)",
            _ADVICE,
        )
    return np.asarray(stored.argmax(axis=1), dtype=np.int64)


def _from_numbers(stored: NDArray[Any], name: str) -> IntArray:
    if stored.dtype.kind == "f":
        stored = stored.astype(np.float64)  # in which the limit can be told
    # NaN compares false, so it counts as wrong too.
    right = (stored >= 0) & (stored < _LABEL_LIMIT)
    right[right] = stored[right] == np.trunc(stored[right])
    if not right.all():
        first = right.argmin()
        raise LabelError(
            f"{name}: label {first} is {stored[first]}, which is not a class number", _ADVICE
        )
    return stored.astype(np.int64)


UNSPLIT = ""
"""Stands for the one part of a data set that has no splits."""

# Best first: a model fits its training images better than it knows their classes.
_PREFERENCE = ("test", "val", "train")

_ASKABLE = ("auto", "train", "val", "test", "all")


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
    return SPLIT_WORDS.get(name.lower(), UNSPLIT)


def split_of_file(name: str) -> str:
    """Return the split that a word in a file name tells (``t10k-images-idx3-ubyte``)."""
    words = re.split(r"[^a-z0-9]+", PurePath(name).name.lower())
    # COCO's parts bear their year: "val2017".
    known = [SPLIT_WORDS.get(word) or SPLIT_WORDS.get(word.rstrip("0123456789")) for word in words]
    found = [split for split in known if split]
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


_SHOWN = 8  # most classes named in one error message


def balanced_sample(
    labels: IntArray, n_classes: int, per_class: int, rng: np.random.Generator
) -> IntArray:
    """Draw images, the same number of each class as far as there are enough.

    Args:
        labels: (N,) classes.
        n_classes: Number of classes of the model.
        per_class: Most images to draw of each class.
        rng: Source of randomness; the same state gives the same sample.

    Returns:
        Positions in increasing order, drawn without replacement.
    """
    drawn = [
        rng.permutation(np.flatnonzero(labels == class_number))[:per_class]
        for class_number in range(n_classes)
    ]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def check_labels(
    labels: IntArray,
    n_classes: int,
    class_names: Sequence[str] | None = None,
    *,
    allow_missing: bool = False,
    is_mapped: bool = False,
) -> None:
    """Check that labels are classes of the model, and that each class has images.

    Args:
        labels: (N,) classes, none negative.
        n_classes: Number of classes of the model.
        class_names: Names for the error message.
        allow_missing: Accept classes without images.
        is_mapped: The numbers are those of a class map.

    Raises:
        LabelError: A label is not among 0..n_classes - 1, or a class has no images.
    """
    found = np.unique(labels)
    outside = found[(found < 0) | (found >= n_classes)]
    if outside.size:
        raise LabelError(
            f"labels outside the model's classes 0..{n_classes - 1}: "
            f"{_listed(outside, class_names)}",
            "Mend the numbers in `class_map`."
            if is_mapped
            else "Use the data set whose classes the model was trained on, numbered in the same "
            "order, or say with `class_map` which class of the model each label is.",
        )
    missing = np.setdiff1d(np.arange(n_classes), found)
    if missing.size and not allow_missing:
        raise LabelError(
            f"classes without images: {_listed(missing, class_names)}",
            "Add images of these classes, or set `allow_missing_classes`.",
        )


def check_several(labels: IntArray, name: str) -> None:
    """Check that there are images of several classes: told before any work is done.

    Args:
        labels: (N,) classes.
        name: What to call the clean set in the error.

    Raises:
        LabelError: All labels are the same.
    """
    found = np.unique(labels)
    if len(found) == 1:
        raise LabelError(
            f"all images of {name} are of one class: {found[0]}",
            "A backdoor turns images of one class into another: give images of all classes.",
        )


def _listed(classes: IntArray, class_names: Sequence[str] | None) -> str:
    named = class_names or ()
    shown = [
        f"{number} ({named[number]})" if 0 <= number < len(named) else str(number)
        for number in map(int, classes[:_SHOWN])
    ]
    more = f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
    return ", ".join(shown) + more


@dataclass(frozen=True, eq=False)  # arrays have no truth value to compare by
class SplitData:
    """Images and labels of one split, or of several joined.

    Args:
        images: N images.
        labels: (N,) class numbers.
        files: The files they came from.
        class_names: Names of the classes by number, None where the file has none.
        notes: Sentences for the report.
        preprocessed: Whether the images are on no scale of pixels, but as the model takes them.
    """

    images: ImageSource
    labels: IntArray
    files: tuple[Path, ...]
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    preprocessed: bool = False


def split_from_arrays(
    images: Rows | NDArray[Any], labels: Any, name: str, files: tuple[Path, ...]
) -> SplitData:
    """Put together a part whose images are one array.

    Args:
        images: The array of images, or what reads its rows when they are asked for: uint8 or float,
            shape (images, height, width), (images, height, width, channels) or
            (images, channels, height, width).
        labels: Class numbers, shape (images,), or one-hot rows.
        name: What to call the array in an error.
        files: The files they came from.

    Raises:
        ImageError: The array is not one of images.
        LabelError: The labels do not fit it.
    """
    if isinstance(images, np.ndarray):
        images = LazyRows(images.shape, images.dtype, partial(np.asarray, images))
    source, note, preprocessed = open_array(images, name)
    numbers = as_labels(labels, len(source), f"the labels of {name}")
    return SplitData(
        source, numbers, files, notes=(note,) if note else (), preprocessed=preprocessed
    )


def join_parts(parts: Sequence[SplitData], name: str) -> SplitData:
    """Put the splits of a data set one after the other.

    Raises:
        DatasetFileError: Some are preprocessed and some are not.
    """
    if len(parts) == 1:
        return parts[0]
    if len({part.preprocessed for part in parts}) > 1:
        raise DatasetFileError(
            f"the splits of {name} are on different scales", "Ask for one split instead of all."
        )
    files = dict.fromkeys(file for part in parts for file in part.files)
    notes = dict.fromkeys(note for part in parts for note in part.notes)
    return SplitData(
        JoinedSource([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        tuple(files),
        parts[0].class_names,
        tuple(notes),
        parts[0].preprocessed,
    )
