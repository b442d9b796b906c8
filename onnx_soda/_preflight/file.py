"""Reads the file itself, and names what it is when it is not ONNX."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from pathlib import Path

from onnx_soda._errors import ModelFileError
from onnx_soda._preflight.limits import DEFAULT_LIMITS, FileLimits, over_limit
from onnx_soda._words import MAY_READ, as_url, not_fetched, shown_name


@dataclass(frozen=True)
class Foreign:
    """What a file is that is no ONNX model.

    Attributes:
        what: As people call it, with its article.
        advice: What to do to get at the model. One sentence.
    """

    what: str
    advice: str


_UNPACK = "Unpack it first, and give the .onnx file inside."
_CONVERT = "Convert it to ONNX first, with `onnx-soda convert`."
_EXPORT = "Export the network to ONNX with the tools of its framework."
_NO_MODEL = "Give the .onnx file of the model."
_GIT_LFS = "Run `git lfs pull` in its repository, or download the file itself."
_RAW = "Download the raw file: the address given leads to a page about it, or to an error message."
# Offset, magic bytes, what the file is. Sources: the formats' own specifications.
_SIGNATURES: tuple[tuple[int, bytes, Foreign], ...] = (
    (0, b"PK\x03\x04", Foreign(
        "a zip archive, as PyTorch (.pt) and Keras (.keras) write",
        "Convert it to ONNX first, with `onnx-soda convert`; where an .onnx file is packed in it, "
        "unpack it.",
    )),
    (0, b"\x89HDF\r\n\x1a\n", Foreign("an HDF5 file, as Keras (.h5) and data sets use", _CONVERT)),
    (4, b"TFL3", Foreign("a TensorFlow Lite model", _CONVERT)),
    (4, b"ORTM", Foreign(
        "a model in ONNX Runtime's own format (.ort)", "Give the .onnx file that it was made from."
    )),
    (0, b"ptrt", Foreign("a TensorRT engine", "Give the .onnx file that it was built from.")),
    (0, b"ftrt", Foreign("a TensorRT engine", "Give the .onnx file that it was built from.")),
    (0, b"GGUF", Foreign("a GGUF model", _EXPORT)),
    (0, b"\x1f\x8b", Foreign("a gzip archive", _UNPACK)),
    (0, b"BZh", Foreign("a bzip2 archive", _UNPACK)),
    (0, b"\xfd7zXZ\0", Foreign("an xz archive", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Foreign("a Zstandard archive", _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Foreign("a 7z archive", _UNPACK)),
    (0, b"Rar!\x1a\x07", Foreign("a RAR archive", _UNPACK)),
    (257, b"ustar", Foreign("a tar archive", _UNPACK)),
    (0, b"\x7fELF", Foreign("a program", _NO_MODEL)),
    (0, b"MZ", Foreign("a program", _NO_MODEL)),
    (0, b"\x89PNG", Foreign("a PNG image", _NO_MODEL)),
    (0, b"\xff\xd8\xff", Foreign("a JPEG image", _NO_MODEL)),
)  # fmt: skip
_PICKLE = Foreign(
    "a Python pickle, which can run code when it is opened",
    "Ask its author for ONNX, or for the weights alone (.safetensors).",
)
_SAFETENSORS = Foreign(
    "a safetensors file: weights without a graph",
    "Convert it to ONNX first, with `onnx-soda convert`, and name its network as `arch`.",
)
# Texts that stand in the place of a file which was not fetched, in lower case.
_TEXTS = (
    (b"version https://git-lfs", Foreign("a Git LFS pointer, not the file itself", _GIT_LFS)),
    (b"<!doctype html", Foreign("a web page", _RAW)),
    (b"<html", Foreign("a web page", _RAW)),
    (b"<?xml", Foreign("an XML text, as servers send with an error", _RAW)),
    (b'{"', Foreign("a JSON text, as servers send with an error", _RAW)),
)
# A byte order mark and white space may stand before a text.
_BEFORE_TEXT = b"\xef\xbb\xbf \t\r\n"
HEAD_BYTES = 512
"""First bytes of a file that tell what it is; tar has its name at byte 257."""
# Protocols 2 to 5 of the pickle format start with PROTO and the protocol number.
_PICKLE_STARTS = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))

# What may hide in a tensor: magic bytes, what the file is.
_EMBEDDED = (
    (b"\x7fELF", "a Linux program"),
    (b"\xcf\xfa\xed\xfe", "a macOS program"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b\x08\x00", "a gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"#!/bin/", "a shell script"),
    (b"#!/usr/bin/", "a script"),
)
# Where a DOS header says at which offset the program begins.
_PE_POINTER = slice(60, 64)
# Protocol 2 and 3: PROTO, then a container or a global, as torch writes.
_OLD_PICKLE = re.compile(rb"\x80[\x02\x03](?:[}\](](?:q\x00|X)|c[a-z_]{2,30}[.\n])")


def describe_foreign_file(head: bytes) -> Foreign | None:
    """Say what a file is, from its first `HEAD_BYTES`; None where it is not known."""
    for offset, magic, foreign in _SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            return foreign
    if head.startswith(_PICKLE_STARTS):
        return _PICKLE
    # safetensors: little-endian header length in 8 bytes, then a JSON object.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return _SAFETENSORS
    return describe_text(head)


def describe_text(head: bytes) -> Foreign | None:
    """Say which text stands in the place of a file that was not fetched; None where it is none.

    Args:
        head: The first bytes of the file.
    """
    start = head.lstrip(_BEFORE_TEXT).lower()
    return next((foreign for words, foreign in _TEXTS if start.startswith(words)), None)


def begins_like_a_file(data: bytes) -> str | None:
    """Say what kind of file some tensor's data begins like; None where it is like none.

    Only signatures that chance will not make: four bytes or more.
    """
    for magic, description in _EMBEDDED:
        if data.startswith(magic):
            return description
    if data.startswith(b"MZ") and len(data) >= _PE_POINTER.stop:
        header = int.from_bytes(data[_PE_POINTER], "little")
        if data[header : header + 4] == b"PE\0\0":
            return "a Windows program"
    # Protocol 4 and 5 frame what follows: eight bytes of length, which has to fit.
    framed = data.startswith((b"\x80\x04\x95", b"\x80\x05\x95"))
    if framed and 0 < int.from_bytes(data[3:11], "little") <= len(data):
        return "a Python pickle"
    return "a Python pickle" if _OLD_PICKLE.match(data) else None


def check_regular(path: Path, limits: FileLimits = DEFAULT_LIMITS) -> int:
    """Make sure that a path is a file of a sensible size that may be read; nothing is read.

    Opening a pipe would wait for its writer for ever.

    Returns:
        Its size in bytes.

    Raises:
        ModelFileError: Missing, a URL, no regular file, or one that may not be read.
        UnsupportedModelError: Too large.
    """
    name = shown_name(path)
    try:
        status = path.stat()
    except PermissionError as error:
        raise _unreadable(name, error) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if url := as_url(path):
            raise ModelFileError(*not_fetched(url)) from error
        raise ModelFileError(f"{name} does not exist", "Check the path of the model.") from error
    if stat.S_ISDIR(status.st_mode):
        raise ModelFileError(f"{name} is a folder", "Give the .onnx file inside it.")
    if not stat.S_ISREG(status.st_mode):
        raise ModelFileError(
            f"{name} is not a regular file but a pipe, socket or device",
            "Save the model to a file first.",
        )
    if status.st_size > limits.file_bytes:
        raise over_limit(f"{name} has {status.st_size} bytes", limits.file_bytes)
    try:
        path.open("rb").close()
    except OSError as error:
        raise _unreadable(name, error) from error
    return status.st_size


def _unreadable(name: str, error: OSError) -> ModelFileError:
    return ModelFileError(f"{name} cannot be read: {error.strerror}", MAY_READ)


def read_model_file(path: Path, limits: FileLimits) -> bytes:
    """Return the bytes of a model file.

    Raises:
        ModelFileError: Missing, no regular file, or not readable.
        UnsupportedModelError: Too large.
    """
    size = check_regular(path, limits)
    try:
        # One byte more than was announced shows a file that grows while it is read.
        with path.open("rb") as stream:
            content = stream.read(size + 1)
    except OSError as error:
        raise _unreadable(shown_name(path), error) from error
    if len(content) != size:
        raise ModelFileError(f"{path.name} changed while it was read", "Try again.")
    return content


def check_start(content: bytes, file: str) -> None:
    """Refuse an empty file, and name a file of another format for what it is.

    Raises:
        ModelFileError: It is one of these.
    """
    if not content:
        raise ModelFileError(f"{file} is empty", "Download it again.")
    foreign = describe_foreign_file(content[:HEAD_BYTES])
    if foreign:
        raise ModelFileError(f"{file} is not an ONNX model but {foreign.what}", foreign.advice)
