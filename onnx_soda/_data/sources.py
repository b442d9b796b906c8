"""Where images come from, and how they are asked for: by index, in the shape the model wants.

Nothing is decoded before it is asked for. A scan takes about a thousand images of a set that may
hold a hundred times as many.
"""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_soda._errors import DatasetFileError
from onnx_soda._words import MAY_READ, shown_name

Pixels = NDArray[np.uint8] | NDArray[np.float32]
"""Images as (n, height, width, channels), values on the 0..255 scale."""

IntArray = NDArray[np.int64]
"""Labels or indices, shape (n,)."""


@dataclass(frozen=True)
class ImageShape:
    """Height, width (in pixels) and number of channels of one image."""

    height: int
    width: int
    channels: int


class ImageSource(Protocol):
    """A row of images, read by index."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    @property
    def native(self) -> ImageShape | None:
        """Shape of the stored images, None where they differ."""
        ...

    def read(self, indices: IntArray, shape: ImageShape, resize: str = "stretch") -> Pixels:
        """Decode the images asked for.

        Args:
            indices: (n,) positions, in any order, repeats allowed, negative ones from the end.
            shape: Shape that the model wants.
            resize: "stretch" or "center-crop", see `onnx_soda._data.images`.

        Returns:
            (n, height, width, channels), values 0..255: uint8, or float32 where floats are stored.

        Raises:
            ImageError: An image is unreadable, has NaN, or has other channels than the model.
            DatasetFileError: The file can no longer be read.
            IndexError: A position is outside the source.
        """
        ...


@dataclass(frozen=True)
class SubsetSource:
    """Some images of another source.

    Args:
        source: The source that holds them.
        positions: (n,) their positions there.
    """

    source: ImageSource
    positions: IntArray

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def native(self) -> ImageShape | None:
        """Shape of the stored images, None where they differ."""
        return self.source.native

    def read(self, indices: IntArray, shape: ImageShape, resize: str = "stretch") -> Pixels:
        """Decode the images asked for; see `ImageSource.read`."""
        return self.source.read(self.positions[indices], shape, resize)


@dataclass(frozen=True)
class JoinedSource:
    """Sources one after the other, as the splits of a data set."""

    sources: Sequence[ImageSource]

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    @property
    def native(self) -> ImageShape | None:
        """Shape of the stored images, None where they differ."""
        shapes = {source.native for source in self.sources}
        return shapes.pop() if len(shapes) == 1 else None

    def read(self, indices: IntArray, shape: ImageShape, resize: str = "stretch") -> Pixels:
        """Decode the images asked for; see `ImageSource.read`."""
        positions, inverse = sorted_unique(indices, len(self))
        parts, start = [], 0
        for source in self.sources:
            inside = (positions >= start) & (positions < start + len(source))
            parts.append(source.read(positions[inside] - start, shape, resize))
            start += len(source)
        joined: NDArray[Any] = np.concatenate(parts)
        return joined[inverse]


def sorted_unique(indices: IntArray, count: int) -> tuple[IntArray, IntArray]:
    """Order positions for a single pass over a file.

    Args:
        indices: (n,) positions among ``count``, in any order; negative ones count from the end.
        count: Number of images.

    Returns:
        The distinct positions in increasing order, and (n,) where each of ``indices`` is in them.

    Raises:
        IndexError: A position is outside ``-count..count-1``.
    """
    positions = np.arange(count)[np.asarray(indices, dtype=np.int64)]
    unique, inverse = np.unique(positions, return_inverse=True)
    return unique, inverse


MAX_DECLARED_BYTES = 16 * 2**30
"""Most bytes that a file may declare. Far above any clean set (ImageNet's validation images at
224x224 are 7 GiB), far below the 10**12 elements that a few kilobytes of HDF5 can declare."""

# What numpy, zipfile, gzip, h5py and pyarrow raise on bytes that are not what they expect. All of
# pyarrow's errors derive from one of these.
_READ_FAILURES = (
    OSError,
    EOFError,
    KeyError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn a library's complaint about a file into one that names the file.

    Args:
        name: File name to show.

    Raises:
        DatasetFileError: The body raised one of the errors that unreadable bytes cause.
    """
    try:
        yield
    except PermissionError as error:
        raise DatasetFileError(f"{name} cannot be read: {error.strerror}", MAY_READ) from error
    except _READ_FAILURES as error:
        raise DatasetFileError(
            f"{name} cannot be read: {str(error) or type(error).__name__}",
            "The file is cut short, damaged or not what its name says: fetch or write it again.",
        ) from error


def check_declared(name: str, declared: int) -> None:
    """Refuse a file that declares more data than any clean set has.

    Args:
        name: File name to show.
        declared: Bytes that its data would take once unpacked.

    Raises:
        DatasetFileError: More than ``MAX_DECLARED_BYTES``.
    """
    if declared > MAX_DECLARED_BYTES:
        raise DatasetFileError(
            f"{name} declares {declared / 2**30:,.1f} GiB of data, over the limit of "
            f"{MAX_DECLARED_BYTES // 2**30} GiB",
            "Store fewer images: a scan needs some hundred per class.",
        )


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first ``count`` bytes of a file, fewer where it is shorter."""
    with path.open("rb") as stream:
        return stream.read(count)


def digest(path: Path, files: Iterable[Path]) -> str:
    r"""Return the SHA-256 that identifies a clean set, in hex.

    Args:
        path: What the caller gave: a file or a folder.
        files: The files that images and labels came from.

    Returns:
        The file's own SHA-256 where ``path`` is the only file; otherwise that of the sorted lines
        ``"<path relative to the folder>\0<SHA-256 of the content>\n"``, names in UTF-8. A file
        outside the folder goes by its name alone.

    Raises:
        DatasetFileError: The files are larger than ``MAX_DECLARED_BYTES`` together.
    """
    used = sorted(files)
    check_declared(shown_name(path), sum(file.stat().st_size for file in used))
    if used == [path]:
        return _file_digest(path)
    folder = path if path.is_dir() else path.parent
    lines = sorted(f"{_below(file, folder)}\0{_file_digest(file)}\n" for file in used)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _below(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.name


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
