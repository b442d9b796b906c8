"""Clean sets in MNIST's IDX format, plain or gzipped: a file of images beside one of labels.

Header: two zero bytes, element type (8: unsigned byte), number of dimensions, then each dimension
as a big-endian 32-bit number (http://yann.lecun.com/exdb/mnist/).
"""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnx_soda._data.arrays import KEPT_BYTES, LazyRows, Rows, StreamRows
from onnx_soda._data.forms import GZIP_MAGIC, IDX_MAGIC, find_image_files, label_files
from onnx_soda._data.sources import check_declared, first_bytes, readable
from onnx_soda._data.splits import (
    SplitData,
    choose_splits,
    join_parts,
    split_from_arrays,
    split_note,
    split_of_file,
)
from onnx_soda._errors import DatasetFileError
from onnx_soda._words import shown_name

_DIMENSIONS = (b"\1", b"\2", b"\3", b"\4")  # images have 4 at most: (N, H, W, C)

# Deflate shrinks no more than this (https://zlib.net/zlib_tech.html), so a gzip file that declares
# more is lying, and is not given the memory.
_DEFLATE_RATIO = 1032


def load_idx(path: Path, split: str) -> SplitData:
    """Read the labels of an IDX clean set; images follow when the first one is asked for.

    Args:
        path: The file of images, or a folder with files of images and labels.
        split: See `choose_splits`; ``train`` and ``t10k`` in the file names tell the split.

    Raises:
        DatasetFileError: Unreadable, of another size than declared, no labels, or no such split.
        LabelError: Labels do not fit the images.
        ImageError: The file has other dimensions than images have.
    """
    name = shown_name(path)
    with readable(name):
        files = find_image_files(path.iterdir()) if path.is_dir() else [path]
        found = _by_split(files, name)
        chosen = choose_splits(found, split, name)
        joined = join_parts([_part(found[which]) for which in chosen], name)
    return replace(joined, notes=(*split_note(chosen), *joined.notes))


def _by_split(files: Iterable[Path], name: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        other = found.setdefault(split_of_file(file.name), file)
        # The same file twice, packed and unpacked, is no other; the unpacked one sorts first.
        if other not in {file, file.with_suffix("")}:
            raise DatasetFileError(
                f"{name} holds more than one data set: {other.name} and {file.name}",
                "Give the path of the file of images.",
            )
    return found


def _part(images: Path) -> SplitData:
    labels = _labels_beside(images)
    shape = _shape(images)
    rows = _rows(images, shape)
    stored = _load(labels, _shape(labels))
    return split_from_arrays(rows, stored, images.name, (images, labels))


def _rows(path: Path, shape: tuple[int, ...]) -> Rows:
    """Return the images: few are read whole, held against what is declared; many by rows."""
    dtype = np.dtype(np.uint8)
    if math.prod(shape) > KEPT_BYTES:
        start, packed = _header_bytes(shape), _gzipped(path)
        return StreamRows(shape, dtype, path.name, partial(_open, path), start, packed)
    return LazyRows(shape, dtype, partial(_load, path, shape))


def _header_bytes(shape: tuple[int, ...]) -> int:
    return 4 + 4 * len(shape)


def _labels_beside(images: Path) -> Path:
    candidates = list(label_files(images))
    for labels in candidates:
        if labels.is_file():
            return labels
    raise DatasetFileError(
        f"{images.name} has no file of labels beside it",
        f"Put {candidates[0].name} into the same folder, and give the file of images.",
    )


def _shape(path: Path) -> tuple[int, ...]:
    """Read the header and hold it against the size of the file."""
    with readable(path.name), _open(path) as stream:
        magic = stream.read(4)
        if magic[:3] != IDX_MAGIC or magic[3:] not in _DIMENSIONS:
            raise DatasetFileError(
                f"{path.name} is not an IDX file of unsigned bytes in 1 to 4 dimensions",
                "Give MNIST-style files.",
            )
        shape = struct.unpack(f">{magic[3]}I", stream.read(4 * magic[3]))
    declared = math.prod(shape)
    check_declared(path.name, declared)
    size, header = path.stat().st_size, _header_bytes(shape)
    fits = declared <= size * _DEFLATE_RATIO if _gzipped(path) else declared == size - header
    if not fits:
        raise _size_error(path, declared)
    return shape


def _load(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    declared = math.prod(shape)
    with readable(path.name), _open(path) as stream:
        stream.read(_header_bytes(shape))
        # One byte more than declared: its absence lets gzip check its checksum.
        data = stream.read(declared + 1)
    if len(data) != declared:
        raise _size_error(path, declared)
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _size_error(path: Path, declared: int) -> DatasetFileError:
    return DatasetFileError(
        f"{path.name} declares {declared} bytes of data, which is not what the file holds",
        "The file is cut short or damaged: fetch it again.",
    )


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path) if _gzipped(path) else path.open("rb")


def _gzipped(path: Path) -> bool:
    return first_bytes(path, len(GZIP_MAGIC)) == GZIP_MAGIC
