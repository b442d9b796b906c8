"""What every format needs of a file: a size limit, a digest, and errors that name the file."""

from __future__ import annotations

import hashlib
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx_soda.errors import DatasetFileError

__all__ = [
    "MAX_DECLARED_BYTES",
    "check_declared",
    "digest",
    "first_bytes",
    "readable",
    "shown_name",
]

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


def shown_name(path: Path) -> str:
    """Return the last part of ``path``, which is all that errors and reports show of it."""
    return path.name if path.name not in {"", ".."} else path.resolve().name


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
        ``"<path relative to the folder>\0<SHA-256 of the content>\n"``, names in UTF-8.

    Raises:
        DatasetFileError: The files are larger than ``MAX_DECLARED_BYTES`` together.
    """
    used = sorted(files)
    check_declared(shown_name(path), sum(file.stat().st_size for file in used))
    if used == [path]:
        return _file_digest(path)
    folder = path if path.is_dir() else path.parent
    lines = sorted(
        f"{file.relative_to(folder).as_posix()}\0{_file_digest(file)}\n" for file in used
    )
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
