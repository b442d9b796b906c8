"""Clean sets in NumPy's .npz: ``x_test``/``y_test``, ``images``/``labels`` and the like."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnx_soda._data.arrays import LazyRows
from onnx_soda._data.sources import check_declared, readable
from onnx_soda._data.splits import (
    SplitData,
    choose_splits,
    find_pairs,
    join_parts,
    split_from_arrays,
    split_note,
)
from onnx_soda._errors import DatasetFileError
from onnx_soda._words import shown_name

_SUFFIX = ".npy"


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def load_npz(path: Path, split: str) -> SplitData:
    """Read the labels of an .npz clean set; the images follow when the first one is asked for.

    Raises:
        DatasetFileError: Unreadable, more declared bytes than the limit, pickled objects, unknown
            names, or no such split.
        LabelError: Labels do not fit the images.
        ImageError: The images are not an array of images.
    """
    name = shown_name(path)
    with readable(name), zipfile.ZipFile(path) as archive:
        check_declared(name, sum(member.file_size for member in archive.infolist()))
        stored = [entry for entry in archive.namelist() if entry.endswith(_SUFFIX)]
        pairs = find_pairs([entry.removesuffix(_SUFFIX) for entry in stored], name)
        if not pairs:
            raise DatasetFileError(
                f"{name} has no images and labels under known names",
                "Write it with np.savez(path, images=..., labels=...).",
            )
        chosen = choose_splits(pairs, split, name)
        headers = {key: _header(archive, key, name) for which in chosen for key in pairs[which]}
    parts = [_part(path, headers, *pairs[which]) for which in chosen]
    joined = join_parts(parts, name)
    return replace(joined, notes=(*split_note(chosen), *joined.notes))


def _part(path: Path, headers: dict[str, _Header], images: str, labels: str) -> SplitData:
    header = headers[images]
    rows = LazyRows(header.shape, header.dtype, partial(_load, path, images))
    return split_from_arrays(rows, _load(path, labels), f"{shown_name(path)}: {images}", (path,))


def _load(path: Path, key: str) -> NDArray[Any]:
    with readable(shown_name(path)), np.load(path, allow_pickle=False) as archive:
        array: NDArray[Any] = archive[key]
        return array


def _header(archive: zipfile.ZipFile, key: str, name: str) -> _Header:
    """Read an array's header, and hold it against the bytes that the archive has for it."""
    info = archive.getinfo(key + _SUFFIX)
    with archive.open(info) as stream:
        shape, dtype = _shape_and_dtype(stream)
        taken = stream.tell()
    if dtype.hasobject:
        raise DatasetFileError(
            f"{name}: {key} holds Python objects, which only unpickling could read",
            "Store plain numbers; images of different sizes belong in a folder of class folders.",
        )
    if math.prod(shape) * dtype.itemsize != info.file_size - taken:
        raise DatasetFileError(
            f"{name}: {key} declares shape {shape}, which is not what is stored",
            "The file is damaged: write it again.",
        )
    return _Header(shape, dtype)


def _shape_and_dtype(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy.read_magic(stream)
    # Version 3 differs from 2 only for the field names of records, which images do not have.
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    return shape, dtype
