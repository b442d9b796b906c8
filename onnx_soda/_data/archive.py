"""Clean sets in zip and tar archives, read without unpacking them to disk.

What may lie in an archive is what may lie in a folder: class folders, or images with a list. Names
that lead out of the archive are refused, though nothing is ever written; links in it are left out.
"""

from __future__ import annotations

import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from onnx_soda._data.arrays import KEPT_BYTES
from onnx_soda._data.coco import has_coco, load_coco_tree
from onnx_soda._data.folder import class_folders, or_class_folders
from onnx_soda._data.forms import GZIP_MAGIC, ZIP_MAGIC
from onnx_soda._data.lists import has_list, load_listed_tree
from onnx_soda._data.sources import check_declared, first_bytes, readable
from onnx_soda._data.splits import UNSPLIT, SplitData, split_of_folder
from onnx_soda._data.tree import Tree, check_count, is_left_behind, left_out
from onnx_soda._errors import DatasetFileError
from onnx_soda._options import DataOptions
from onnx_soda._words import shown_name

# Of one file in an archive: encoded images have some megabytes, lists of images some hundred.
_LARGEST_FILE = 2**29
# What unpacking raises on damaged bytes, and on ways of packing and encryption it does not know.
_UNPACK_FAILURES = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, RuntimeError, ValueError),
)


_Unpacked = io.BytesIO | gzip.GzipFile
_UNPACKED_AGAIN = (
    "The archive is large and packed as a whole: it is unpacked again for each pass over its "
    "images. A tar that is not packed, or a zip, is read faster."
)


@dataclass(frozen=True, slots=True)
class _Member:
    """A file or folder in an archive.

    Attributes:
        name: Its name.
        size: Bytes that it declares.
        folder: It is a folder.
        odd: It is neither: a link or a device.
        read: Gives its content.
    """

    name: str
    size: int
    folder: bool
    odd: bool
    read: Callable[[], bytes]


def load_archive(path: Path, split: str, options: DataOptions) -> SplitData:
    """Read the labels of images in an archive; the images follow when they are asked for.

    Raises:
        DatasetFileError: Unreadable, over a limit, with names that lead out of it, or as
            `class_folders`.
        LabelError: As `class_folders`.
    """
    name = shown_name(path)
    with readable(name):
        tree = _without_wrapping(archive_tree(path, name))
        named = None if options.labels is None else Path(options.labels)
        if named is not None:
            coco = named.suffix.lower() == ".json"
            return (load_coco_tree if coco else load_listed_tree)(tree, split, named)
        if has_list(tree):
            return or_class_folders(tree, split, load_listed_tree)
        if has_coco(tree):
            return or_class_folders(tree, split, load_coco_tree)
        return class_folders(tree, split)


def archive_tree(path: Path, name: str) -> Tree:
    """List the files of an archive.

    Raises:
        DatasetFileError: See `load_archive`.
    """
    zipped = first_bytes(path, len(ZIP_MAGIC)) == ZIP_MAGIC
    unpacked = None if zipped else _unpacked(path)
    members = _zip_members(path) if zipped else _tar_members(path, unpacked)
    files: dict[str, _Member] = {}
    folders: set[str] = set()
    odd: list[str] = []
    total = 0
    for member in members:
        parts = _parts(member.name, name)
        total += member.size
        check_declared(name, total)
        check_count(name, len(files) + len(folders) + len(odd))
        if not parts or any(map(is_left_behind, parts)):
            continue
        shown = "/".join(parts)
        if member.odd:
            odd.append(shown)
            continue
        own = parts if member.folder else parts[:-1]
        folders |= {"/".join(own[: depth + 1]) for depth in range(len(own))}
        if not member.folder:
            files[shown] = member
    return Tree(
        name,
        tuple(files),
        frozenset(folders),
        lambda inside: _content(files[inside], inside),
        lambda _: path,
        (
            *left_out(odd, "link in the archive", "links in the archive"),
            *((_UNPACKED_AGAIN,) if isinstance(unpacked, gzip.GzipFile) else ()),
        ),
    )


def _parts(inside: str, name: str) -> tuple[str, ...]:
    """Return the parts of a member's name.

    Raises:
        DatasetFileError: It leads out of the archive, or is not one of a file in it.
    """
    parts = inside.split("/")
    if inside.startswith("/") or ".." in parts or "\\" in inside or parts[0].endswith(":"):
        raise DatasetFileError(
            f"{name} has a file called {inside!r}, which leads out of the archive",
            "Pack the folder anew; do not trust an archive like this.",
        )
    return tuple(part for part in parts if part not in ("", "."))


def _content(member: _Member, name: str) -> bytes:
    if member.size > _LARGEST_FILE:
        raise OSError(f"{name} declares {member.size} bytes, more than an image has")
    try:
        content = member.read()
    except _UNPACK_FAILURES as error:
        raise OSError(str(error)) from error
    if len(content) != member.size:
        raise OSError("the archive is cut short")
    return content


def _zip_members(path: Path) -> Iterator[_Member]:
    archive = zipfile.ZipFile(path)
    for one in archive.infolist():
        kind = stat.S_IFMT(one.external_attr >> 16)
        odd = kind not in (0, stat.S_IFREG, stat.S_IFDIR)
        yield _Member(one.filename, one.file_size, one.is_dir(), odd, _ZipFile(archive, one))


@dataclass(frozen=True, slots=True)
class _ZipFile:
    """Reads a file in a zip."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo

    def __call__(self) -> bytes:
        """Return its content, and not more than it declares."""
        with self.archive.open(self.info) as stream:
            return stream.read(self.info.file_size + 1)


class _Passing(tarfile.TarFile):
    """A tar archive whose members can be forgotten once they were seen."""

    members: list[tarfile.TarInfo]


def _tar_members(path: Path, unpacked: _Unpacked | None) -> Iterator[_Member]:
    try:
        with _Passing.open(path if unpacked is None else None, "r:", unpacked) as archive:
            for one in archive:
                # They would all be kept, and take a kilobyte each.
                archive.members = []
                odd = not (one.isreg() or one.isdir()) or one.issparse()
                read = _TarFile(path, unpacked, one.offset_data, one.size)
                yield _Member(one.name, one.size, one.isdir(), odd, read)
    except tarfile.TarError as error:
        raise OSError(f"it is no tar archive: {error}") from error


@dataclass(frozen=True, slots=True)
class _TarFile:
    """Reads a file in a tar.

    Attributes:
        path: The archive.
        unpacked: Its content, where it is packed.
        offset: Where the file begins in that.
        size: Its bytes.
    """

    path: Path
    unpacked: _Unpacked | None
    offset: int
    size: int

    def __call__(self) -> bytes:
        """Return its content."""
        if self.unpacked is not None:
            return self._part(self.unpacked)
        with self.path.open("rb") as stream:
            return self._part(stream)

    def _part(self, stream: IO[bytes] | _Unpacked) -> bytes:
        stream.seek(self.offset)
        return stream.read(self.size)


def _unpacked(path: Path) -> _Unpacked | None:
    """Return what is in a packed tar, in memory where it is small; None where it is not packed.

    A larger one is unpacked again for each pass over its images, as far as the last one.
    """
    if first_bytes(path, len(GZIP_MAGIC)) != GZIP_MAGIC:
        return None
    with gzip.open(path) as stream:
        content = stream.read(KEPT_BYTES + 1)
    return io.BytesIO(content) if len(content) <= KEPT_BYTES else gzip.GzipFile(path)


def _without_wrapping(tree: Tree) -> Tree:
    """Leave out a folder that all of an archive lies in, which bears its name and is no class."""
    while True:
        (*others, top) = tree.folders_in("") or [""]
        loose = any("/" not in name for name in tree.files)
        if others or loose or not top or split_of_folder(top) != UNSPLIT:
            return tree
        inner = tree.below(top)
        if not (inner.folders or has_list(inner) or has_coco(inner)):
            return tree
        tree = inner
