"""Clean sets in .npz, or in a pair of .npy files: ``x_test``/``y_test``, ``images``/``labels``."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from onnx_soda._data.arrays import KEPT_BYTES, LazyRows, Rows, StreamRows
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
from onnx_soda._options import DataOptions
from onnx_soda._words import shown_name

_SUFFIX = ".npy"


@dataclass(frozen=True)
class _Header:
    """What an array's header says.

    Attributes:
        shape: Shape of the array.
        dtype: Element type.
        length: Bytes of the header.
        by_rows: Its rows stand one after the other.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    length: int
    by_rows: bool

    def rows(
        self,
        name: str,
        stream: Callable[[], IO[bytes]],
        load: Callable[[], NDArray[Any]],
        packed: bool,
    ) -> Rows:
        """Return the rows: small arrays are read whole, with their checksum, large ones by rows.

        Args:
            name: What to call the array in an error.
            stream: Opens what the array is stored in.
            load: Reads the array whole.
            packed: The stream is slow to go back.
        """
        if self.by_rows and math.prod(self.shape) * self.dtype.itemsize > KEPT_BYTES:
            return StreamRows(self.shape, self.dtype, name, stream, self.length, packed)
        return LazyRows(self.shape, self.dtype, load)


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
    name = f"{shown_name(path)}: {images}"
    stream, load = partial(_open, path, images), partial(_load, path, images)
    rows = headers[images].rows(name, stream, load, packed=True)
    return split_from_arrays(rows, _load(path, labels), name, (path,))


def _open(path: Path, key: str) -> IO[bytes]:
    return zipfile.ZipFile(path).open(key + _SUFFIX)


def _load(path: Path, key: str) -> NDArray[Any]:
    with readable(shown_name(path)), np.load(path, allow_pickle=False) as archive:
        array: NDArray[Any] = archive[key]
        return array


def _header(archive: zipfile.ZipFile, key: str, name: str) -> _Header:
    """Read an array's header, and hold it against the bytes that the archive has for it."""
    info = archive.getinfo(key + _SUFFIX)
    with archive.open(info) as stream:
        return _checked(stream, info.file_size, f"{name}: {key}")


def _checked(stream: IO[bytes], size: int, name: str) -> _Header:
    """Read an array's header, and hold it against the bytes that there are."""
    shape, dtype, by_rows = _shape_and_dtype(stream)
    if dtype.hasobject:
        raise DatasetFileError(
            f"{name} holds Python objects, which only unpickling could read",
            "Store plain numbers; images of different sizes belong in a folder of class folders.",
        )
    if math.prod(shape) * dtype.itemsize != size - stream.tell():
        raise DatasetFileError(
            f"{name} declares shape {shape}, which is not what is stored",
            "The file is damaged: write it again.",
        )
    return _Header(shape, dtype, stream.tell(), by_rows)


def _shape_and_dtype(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    version = npy.read_magic(stream)
    # Version 3 differs from 2 only for the field names of records, which images do not have.
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, by_columns, dtype = read(stream)
    return shape, dtype, not by_columns


def load_npy(path: Path, split: str, options: DataOptions) -> SplitData:
    """Read the labels of a clean set in .npy files; the images follow when they are asked for.

    Args:
        path: The file of images, or a folder with files of images and labels, named as the arrays
            in an .npz.
        split: See `choose_splits`.
        options: They may name the file of labels.

    Raises:
        DatasetFileError: As `load_npz`, or there is no file of labels.
        LabelError: Labels do not fit the images.
        ImageError: The images are not an array of images.
    """
    name = shown_name(path)
    with readable(name):
        if not path.is_dir() and options.labels is not None:
            return _npy_part(path, Path(options.labels))
        folder = path if path.is_dir() else path.parent
        files = {file.stem: file for file in sorted(folder.glob(f"*{_SUFFIX}"))}
        pairs = find_pairs(files, name)
        if not path.is_dir():
            pairs = {which: pair for which, pair in pairs.items() if pair[0] == path.stem}
        if not pairs:
            lacking = "images and labels" if path.is_dir() else "labels beside it"
            raise DatasetFileError(
                f"{name} has no {lacking} under known names",
                "Call them images.npy and labels.npy, or give the file of images as `data` and "
                "that of the labels as `labels`.",
            )
        chosen = choose_splits(pairs, split, name)
        parts = [_npy_part(*(files[key] for key in pairs[which])) for which in chosen]
        joined = join_parts(parts, name)
    return replace(joined, notes=(*split_note(chosen), *joined.notes))


def _npy_part(images: Path, labels: Path) -> SplitData:
    header = _npy_header(images)
    stream, load = partial(_open_npy, images), partial(_load_npy, images)
    rows = header.rows(images.name, stream, load, packed=False)
    _npy_header(labels)
    return split_from_arrays(rows, _load_npy(labels), images.name, (images, labels))


def _npy_header(path: Path) -> _Header:
    with readable(path.name), path.open("rb") as stream:
        check_declared(path.name, path.stat().st_size)
        return _checked(stream, path.stat().st_size, path.name)


def _open_npy(path: Path) -> IO[bytes]:
    return path.open("rb")


def _load_npy(path: Path) -> NDArray[Any]:
    with readable(path.name):
        array: NDArray[Any] = np.load(path, allow_pickle=False)
        return array
