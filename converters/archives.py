"""Archives and pickles, looked at before anything unpacks or runs them.

Zip archives are the form of most frameworks' files. Python's reader goes by the directory at the
end of the file, others may go by the headers before each member. An archive in which these differ,
or in which members overlap, is refused: what one reader checks would not be what the other opens.

What a pickle would import is read off its instructions without running them.
`torch.load(weights_only=True)` runs pickles on a machine of its own that imports nothing but a list
of harmless names. The same is looked at here first: which names, and which instructions.
"""

from __future__ import annotations

import io
import pickletools
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .refusals import bomb, damaged, escapes, misleading, runs_code, unpacks_to_much

# PyTorch writes one member per tensor; the largest classifiers have a few thousand.
_MOST_MEMBERS = 20_000
# As the largest ONNX file: what is larger cannot be written as one anyway.
_MOST_BYTES = 2**31 - 1
# Code and JSON shrink to a tenth, weights hardly. What is under the size is harmless either way.
MOST_RATIO, _HARMLESS_BYTES = 100, 2**20
_MOST_NAME = 512
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_BROKEN = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zlib.error)


@dataclass(frozen=True)
class Archive:
    """An archive that was looked at.

    Attributes:
        file: Name to show.
        zip: The open archive.
        names: Names of its members.
    """

    file: str
    zip: zipfile.ZipFile
    names: tuple[str, ...]

    def read(self, name: str, most: int) -> bytes:
        """Return a member's content.

        Raises:
            UnsafeSourceError: It has more than `most` bytes.
            ConvertError: It is missing or damaged.
        """
        if name not in self.names:
            raise damaged(f"{self.file} has no {name!r}")
        if self.zip.getinfo(name).file_size > most:
            raise bomb(f"{name!r} in {self.file} has over {most} bytes")
        with _reading(self.file):
            return self.zip.read(name)


def member_names(path: Path) -> tuple[str, ...]:
    """Return the names in a zip archive, to tell what it is; none where it cannot be read."""
    try:
        with path.open("rb") as stream:
            if stream.read(4) != b"PK\x03\x04":
                return ()
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.namelist())
    except (zipfile.BadZipFile, *_BROKEN):
        return ()


@contextmanager
def checked_archive(path: Path) -> Iterator[Archive]:
    """Open an archive after a look at the names, sizes and places of all members.

    Raises:
        UnsafeSourceError: Too many members, too large, too much compressed, names that lead
            elsewhere or occur twice, members that overlap, links, encryption.
        ConvertError: It is no zip archive, or damaged.
    """
    file = path.name
    with _reading(file), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > _MOST_MEMBERS:
            raise unpacks_to_much(
                f"{file} has {len(members)} members, over the limit of {_MOST_MEMBERS}"
            )
        if sum(member.file_size for member in members) > _MOST_BYTES:
            raise unpacks_to_much(f"{file} unpacks to over {_MOST_BYTES} bytes")
        for member in members:
            check_name(file, member.filename)
            check_member(file, member)
        check_places(file, members, path.stat().st_size)
        for member in members:
            with archive.open(member):  # reads the header before it, and compares the name
                pass
        yield Archive(file, archive, tuple(archive.namelist()))


@contextmanager
def _reading(file: str) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, *_BROKEN) as error:
        raise damaged(f"{file} cannot be read as a zip archive: {error}") from error


def check_name(file: str, name: str) -> None:
    """Refuse a member's name that leads out of the folder where it is unpacked.

    Raises:
        UnsafeSourceError: It does, or means different things on different systems.
    """
    path = PurePosixPath(name)
    strange = any(character in name for character in "\\:\0") or len(name) > _MOST_NAME
    if strange or path.is_absolute() or ".." in path.parts or not name:
        raise escapes(f"{file} has a member named {name[:_MOST_NAME]!r}")


def check_member(file: str, member: zipfile.ZipInfo, harmless: int = _HARMLESS_BYTES) -> None:
    """Refuse a member that is encrypted, a link, or far larger than its compressed bytes.

    Args:
        file: Name of the archive to show.
        member: The member.
        harmless: What is under this many bytes is no bomb, however little room it takes.

    Raises:
        UnsafeSourceError: It is one of these.
    """
    name = member.filename
    if member.flag_bits & _ENCRYPTED:
        raise misleading(f"{name!r} in {file} is encrypted")
    if member.compress_type not in _METHODS:
        raise misleading(f"{name!r} in {file} is compressed in an unusual way")
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise escapes(f"{name!r} in {file} is a link or device")
    stored = member.compress_type == zipfile.ZIP_STORED
    if stored and member.file_size != member.compress_size:
        raise misleading(f"{name!r} in {file} has two sizes")
    if member.file_size > max(harmless, MOST_RATIO * member.compress_size):
        raise unpacks_to_much(f"{name!r} in {file} unpacks to over {MOST_RATIO} times its size")


def check_places(file: str, members: list[zipfile.ZipInfo], size: int, fold: bool = True) -> None:
    """Refuse members of one name, and such as overlap.

    Args:
        file: Name of the archive to show.
        members: Its members.
        size: Its bytes.
        fold: Names that differ in capitals alone are one name.

    Raises:
        UnsafeSourceError: There are some.
        ConvertError: The archive is cut short.
    """
    names = [member.filename for member in members]
    folded = [name.casefold() for name in names] if fold else names
    if len(set(folded)) != len(folded):
        raise misleading(f"{file} has two members of one name")
    end = 0
    for member in sorted(members, key=lambda one: one.header_offset):
        if member.header_offset < end:
            raise misleading(f"{file} has members that overlap")
        end = member.header_offset + member.compress_size
    if end > size:
        raise damaged(f"{file} is cut short")


FRAMEWORK_NAMES = re.compile(
    r"collections OrderedDict|collections Counter"
    r"|torch\._utils _rebuild_(?:tensor|tensor_v2|parameter|parameter_with_state)"
    r"|torch\.nn\.parameter Parameter|torch\.serialization _get_layout"
    r"|torch (?:Size|device|Tensor)"
    r"|torch (?:Float|Double|Half|BFloat16|Byte|Char|Short|Int|Long|Bool)Storage"
    r"|torch (?:b?float16|float(?:32|64)|u?int8|int(?:16|32|64)|bool|half|float|double|long|int)"
    r"|torch\.storage (?:UntypedStorage|TypedStorage)"
)
"""What tensors in a state_dict are made of, as "module name"."""

# What torch's unpickler for weights knows (torch/_weights_only_unpickler.py). Others load names
# from the stack, call classes, or read objects by number.
_INSTRUCTIONS = (
    "PROTO FRAME STOP MARK POP POP_MARK GLOBAL NEWOBJ REDUCE BUILD APPEND APPENDS SETITEM SETITEMS "
    "TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET NONE NEWTRUE NEWFALSE "
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING BINPERSID BINGET LONG_BINGET "
    "BINPUT LONG_BINPUT"
)
_KNOWN = frozenset(_INSTRUCTIONS.split())
_MOST_INSTRUCTIONS = 5_000_000
_ADVICE = (
    "Ask for the weights alone, torch.save(model.state_dict(), ...) or .safetensors, and name the "
    "network as `arch`; or for a .pt2 file (torch.export.save)."
)


def check_pickle(content: bytes, what: str, names: re.Pattern[str], pickles: int = 1) -> None:
    """Look at what pickles would import, running nothing.

    Args:
        content: The pickles, one behind the other.
        what: The file's name to show.
        names: Names that may be imported, as "module name".
        pickles: How many there are.

    Raises:
        UnsafeSourceError: They import something else, or have unusual instructions.
        ConvertError: They are no pickles.
    """
    stream = io.BytesIO(content)
    seen = 0
    try:
        for _ in range(pickles):
            for code, argument, _ in pickletools.genops(stream):
                seen += 1
                if seen > _MOST_INSTRUCTIONS:
                    raise bomb(f"the pickle in {what} has over {_MOST_INSTRUCTIONS} instructions")
                _check(code.name, argument, what, names)
    except (ValueError, EOFError, UnicodeDecodeError) as error:
        raise damaged(f"the pickle in {what} cannot be read: {error}") from error


def _check(code: str, argument: object, what: str, names: re.Pattern[str]) -> None:
    if code not in _KNOWN:
        raise runs_code(f"the pickle in {what} has the instruction {code}", _ADVICE)
    if code == "GLOBAL" and not names.fullmatch(str(argument)):
        wanted = str(argument).replace(" ", ".")
        raise runs_code(f"{what} is a pickle that would import {wanted!r}", _ADVICE)
