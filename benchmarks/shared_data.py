"""Reads the data sets of ../shared/data whole: images, labels, triggers."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import SHARED
from onnx_soda import CleanSet
from onnx_soda._data.arrays import LazyRows, open_array

__all__ = ["SharedData", "Trigger", "read_shared", "trigger_images"]

Images = NDArray[np.uint8]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Trigger:
    """A semantic feature and where it is.

    Attributes:
        victim: Class whose images carry it.
        target: Class that they are to be given.
        train: Positions in the training images.
        test: Positions in the test images.
    """

    victim: int
    target: int
    train: Indices
    test: Indices


@dataclass(frozen=True, eq=False)
class SharedData:
    """A data set.

    Attributes:
        train: Images, shape (N, H, W, C).
        train_labels: Shape (N,).
        test: Images.
        test_labels: Shape (N,).
        classes: Number of classes.
        triggers: By name.
    """

    train: Images
    train_labels: Indices
    test: Images
    test_labels: Indices
    classes: int
    triggers: dict[str, Trigger]


def _images(part: h5py.Group) -> Images:
    if "image" in part:
        grey: Images = part["image"][:]
        return grey[..., None]
    offsets, content = part["offset"][:], part["encoded"][:].tobytes()
    return np.stack(
        [np.asarray(Image.open(io.BytesIO(content[a:b]))) for a, b in pairwise(offsets)]
    )


def _trigger(group: h5py.Group) -> Trigger:
    train, test = (group[part][:].astype(np.int64) for part in ("train", "test"))
    return Trigger(int(group.attrs["victim"]), int(group.attrs["target"]), train, test)


def read_shared(dataset: str) -> SharedData:
    """Read a data set by name.

    Raises:
        OSError: The file is not there.
    """
    path: Path = SHARED / "data" / f"{dataset}.h5"
    with h5py.File(path) as file:
        return SharedData(
            _images(file["train"]),
            file["train/label"][:].astype(np.int64),
            _images(file["test"]),
            file["test/label"][:].astype(np.int64),
            len(json.loads(file.attrs["class_names"])),
            {name: _trigger(group) for name, group in file["trigger"].items()},
        )


def trigger_images(
    data: SharedData, pair: tuple[int | None, int | None], like: CleanSet
) -> CleanSet:
    """Return the test images that carry the trigger of a pair, with their true labels.

    Args:
        data: The data set.
        pair: Victim and target.
        like: A clean set of the same data set, for the names of the classes.
    """
    own = next(one.test for one in data.triggers.values() if (one.victim, one.target) == pair)
    shown = data.test[own]
    source, _, _ = open_array(LazyRows(shown.shape, shown.dtype, lambda: shown), "triggers")
    return replace(like, labels=data.test_labels[own], images=source)
