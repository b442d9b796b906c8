"""What the reader of a format hands back, before it has a name and a digest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnx_soda._data.arrays import Rows, open_array
from onnx_soda._data.labels import as_labels
from onnx_soda._data.sources import ImageSource, IntArray, JoinedSource
from onnx_soda._errors import DatasetFileError


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


def array_part(rows: Rows, labels: Any, name: str, files: tuple[Path, ...]) -> SplitData:
    """Put together a part whose images are one array.

    Args:
        rows: The array of images.
        labels: Labels as stored, see `as_labels`.
        name: What to call the array in an error.
        files: The files they came from.

    Raises:
        ImageError: The array is not one of images.
        LabelError: The labels do not fit it.
    """
    source, note, preprocessed = open_array(rows, name)
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
