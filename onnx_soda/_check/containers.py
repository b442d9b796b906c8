"""Walks through archives: zip, tar, and compressed streams, in memory and within limits.

Nothing is unpacked to the disk. Each member is looked at as a file is, archives inside too. What an
archive would do to a program that unpacks it without care is told; such a member is not read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import posixpath
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

from onnx_soda._check.notes import Notes, Part
from onnx_soda._converters.archives import MOST_RATIO, check_member, check_name, check_places
from onnx_soda._converters.refusals import damaged, escapes, unpacks_to_much
from onnx_soda._errors import SodaError
from onnx_soda._rules import RULE_BOMB, RULE_UNREAD

# Archives in archives; a model in a zip archive in a wheel in a tar file is three deep.
_MOST_DEPTH = 5
# Of one member, and of all that one file unpacks to: as the largest ONNX file, and as the most
# weights that one has.
_MEMBER_BYTES, _ALL_BYTES = 2**31 - 1, 16 * 2**30
_MOST_MEMBERS = 100_000
# What shrinks to a hundredth and is smaller than this is a text or an array of zeros.
_HARMLESS = 8 * 2**20
_CHUNK = 2**20
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (
    OSError, EOFError, ValueError, RuntimeError, NotImplementedError, OverflowError, zlib.error,
    lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip

Look = Callable[[Part], None]
"""Looks at a part."""


@dataclass
class Budget:
    """What may still be unpacked of one file.

    Attributes:
        bytes: Bytes.
        members: Members of archives.
    """

    bytes: int = _ALL_BYTES
    members: int = _MOST_MEMBERS

    def allows(self, size: int) -> bool:
        """Take a member of some bytes off; tell whether there was so much left."""
        self.members -= 1
        self.bytes -= size
        return self.bytes >= 0 and self.members >= 0


class Containers:
    """Walks through the archives of one file.

    Args:
        notes: Takes what is seen.
        look: Looks at each member.
    """

    def __init__(self, notes: Notes, look: Look) -> None:
        self._notes = notes
        self._look = look
        self._budget = Budget()

    # --- zip

    def walk_zip(self, part: Part) -> None:
        """Look at the members of a zip archive."""
        if self._too_deep(part):
            return
        part.stream.seek(0)
        try:
            with zipfile.ZipFile(part.stream) as archive:
                self._walk_zip(part, archive)
        except _BROKEN as error:
            raise damaged(f"{part.shown} cannot be read as a zip archive: {error}") from error

    def _walk_zip(self, part: Part, archive: zipfile.ZipFile) -> None:
        members = archive.infolist()
        try:
            check_places(part.shown, members, part.size, fold=False)
        except SodaError as error:
            self._notes.add_error(error, part)
        framework = _Framework.of(archive.namelist())
        for member in members:
            inside = _inside(part, member.filename, io.BytesIO(), member.file_size)
            try:
                if self._may_be_read(part, member, inside):
                    self._read_member(archive, member, inside, framework)
            except _BROKEN as error:
                self._notes.add(RULE_UNREAD, f"{inside.place} cannot be read: {error}", inside)
            if self._budget.members < 0:
                what = f"{part.shown} has over {_MOST_MEMBERS} members; the rest was not looked at"
                self._notes.add(RULE_UNREAD, what, part)
                return

    def _may_be_read(self, part: Part, member: zipfile.ZipInfo, inside: Part) -> bool:
        """Tell what is wrong with a member; say whether it may be read all the same."""
        try:
            check_name(part.shown, member.filename)
        except SodaError as error:
            self._notes.add_error(error, inside)
        if member.is_dir():
            return False
        if member.flag_bits & _ENCRYPTED or member.compress_type not in _METHODS:
            how = "encrypted" if member.flag_bits & _ENCRYPTED else "compressed in an unusual way"
            self._notes.add(RULE_UNREAD, f"{inside.place} is {how}", inside)
            return False
        try:
            check_member(part.shown, member, _HARMLESS)
        except SodaError as error:
            self._notes.add_error(error, inside)
            return False
        return True

    def _read_member(
        self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, inside: Part, framework: _Framework
    ) -> None:
        kind = framework.kind_of(member.filename)
        if kind is not None:
            with archive.open(member):  # compares the name in the header before it
                self._notes.know(inside, kind)
            return
        if self._has_room(inside):
            content = archive.read(member)
            held = replace(inside, stream=io.BytesIO(content), size=len(content))
            self._look(replace(held, framework=framework.name))

    def _has_room(self, inside: Part) -> bool:
        if inside.size <= _MEMBER_BYTES and self._budget.allows(inside.size):
            return True
        self._notes.add(RULE_UNREAD, f"{inside.place} is too large to be looked at here", inside)
        return False

    # --- tar

    def walk_tar(self, part: Part) -> None:
        """Look at the members of a tar archive."""
        if self._too_deep(part):
            return
        part.stream.seek(0)
        try:
            with tarfile.open(fileobj=part.stream, mode="r:") as archive:
                for member in archive:
                    self._walk_tar_member(part, archive, member)
                    if self._budget.members < 0:
                        what = f"{part.shown} has over {_MOST_MEMBERS} members"
                        self._notes.add(RULE_UNREAD, what, part)
                        return
        except _BROKEN as error:
            raise damaged(f"{part.shown} cannot be read as a tar archive: {error}") from error

    def _walk_tar_member(
        self, part: Part, archive: tarfile.TarFile, member: tarfile.TarInfo
    ) -> None:
        inside = _inside(part, member.name, io.BytesIO(), member.size)
        try:
            check_name(part.shown, member.name)
            _check_kind(part.shown, member)
        except SodaError as error:
            self._notes.add_error(error, inside)
            return
        if not member.isreg():
            self._budget.allows(0)
            return
        if self._has_room(inside) and (stream := archive.extractfile(member)) is not None:
            content = stream.read()
            self._look(replace(inside, stream=io.BytesIO(content), size=len(content)))

    # --- streams

    def open_stream(self, part: Part, kind: str) -> None:
        """Look at what a compressed stream holds."""
        if self._too_deep(part):
            return
        part.stream.seek(0)
        try:
            content = self._unpacked(part, _opened(part.stream, kind))
        except _BROKEN as error:
            raise damaged(f"{part.shown} cannot be unpacked: {error}") from error
        name = re.sub(r"\.(?:t?gz|bz2|xz|z|lzma)$", "", part.name, flags=re.IGNORECASE)
        self._look(_inside(part, name, io.BytesIO(content), len(content)))

    def _unpacked(self, part: Part, stream: BinaryIO | _Zlib) -> bytes:
        """Return what a stream unpacks to.

        Raises:
            UnsafeSourceError: It is over a hundred times as large.
            ConvertError: It is larger than anything here.
        """
        whole = bytearray()
        most = max(_HARMLESS, MOST_RATIO * part.size)
        while chunk := stream.read(_CHUNK):
            whole += chunk
            if len(whole) > most:
                raise unpacks_to_much(f"{part.shown} unpacks to over {MOST_RATIO} times its size")
            if len(whole) > _MEMBER_BYTES or not self._budget.allows(len(chunk)):
                raise damaged(f"{part.shown} is too large to be unpacked here")
        return bytes(whole)

    def _too_deep(self, part: Part) -> bool:
        if part.depth < _MOST_DEPTH:
            return False
        what = f"{part.shown} is an archive in over {_MOST_DEPTH - 1} others"
        self._notes.add(RULE_BOMB, what, part)
        return True


class _Zlib:
    """Reads what zlib packed without a header of its own, as joblib does."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._unpacker = stream, zlib.decompressobj()

    def read(self, size: int = -1) -> bytes:
        """Return some bytes; none at the end."""
        while not self._unpacker.eof:
            waiting = self._unpacker.unconsumed_tail or self._stream.read(_CHUNK)
            if not waiting:
                raise EOFError("it is cut short")
            found = self._unpacker.decompress(waiting, size)
            if found:
                return found
        return b""


def _opened(stream: BinaryIO, kind: str) -> BinaryIO | _Zlib:
    """Return a stream that unpacks another one."""
    if kind == "gzip":
        return cast(BinaryIO, gzip.open(stream))
    if kind == "bzip2":
        return cast(BinaryIO, bz2.open(stream))
    return cast(BinaryIO, lzma.open(stream)) if kind == "xz" else _Zlib(stream)


def _check_kind(file: str, member: tarfile.TarInfo) -> None:
    """Refuse a device, a pipe, and a link that leads out of the folder."""
    if member.ischr() or member.isblk() or member.isfifo():
        raise escapes(f"{file} has a device or pipe named {member.name[:200]!r}")
    if member.issym() or member.islnk():
        # A symbolic link starts from its own folder, a hard link from the archive's.
        start = posixpath.dirname(member.name) if member.issym() else ""
        target = posixpath.normpath(posixpath.join(start, member.linkname))
        if target.startswith(("/", "..")) or "\\" in member.linkname:
            raise escapes(
                f"{file} has a link named {member.name[:200]!r} to {member.linkname[:200]!r}"
            )


def _inside(part: Part, name: str, stream: BinaryIO, size: int) -> Part:
    place = f"{part.place}/{name}" if part.place else name
    return Part(place, posixpath.basename(name), stream, size, part.depth + 1)


@dataclass(frozen=True)
class _Framework:
    """Whose archive it is; members that hold bare numbers or facts about the form.

    PyTorch reads such members as numbers whatever is in them, so they are not looked into.

    Attributes:
        name: "PyTorch", "Keras" or "scikit-learn"; "" where it is another archive.
        folder: PyTorch's folder in the archive, with a "/" at its end; "" where it has none.
    """

    name: str = ""
    folder: str = ""

    @staticmethod
    def of(names: list[str]) -> _Framework:
        """Tell by the names in an archive whose it is."""
        for name in names:
            folder, _, last = name.partition("/")
            if last in ("data.pkl", "archive_format"):
                return _Framework("PyTorch", f"{folder}/")
        if {"config.json", "metadata.json"} <= set(names):
            return _Framework("Keras")
        return _Framework("scikit-learn" if "schema.json" in names else "")

    def kind_of(self, name: str) -> str | None:
        """Return what a member is; None where it has to be looked at."""
        if self.name == "Keras" and name == "metadata.json":
            return "about the file (Keras)"
        if not self.folder or not name.startswith(self.folder):
            return None
        inside = name.removeprefix(self.folder)
        if re.fullmatch(r"(?:data|constants|tensors|traced_inputs)/\d+", inside):
            return "weights (PyTorch)"
        return "about the file (PyTorch)" if _FACTS.fullmatch(inside) else None


_FACTS = re.compile(
    r"(?:\.data/)?\.?version|byteorder|\.format_version|\.storage_alignment|\.data/\w+"
    r"|archive_(?:format|version)|data/(?:weights|constants)/\w+\.json"
)
