"""Reads the file itself, and names what it is when it is not ONNX."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from onnx_soda._errors import ModelFileError
from onnx_soda._preflight.limits import DEFAULT_LIMITS, FileLimits, over_limit

# Offset, magic bytes, what the file is. Sources: the formats' own specifications.
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive, as PyTorch (.pt) and Keras (.keras) write"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras (.h5) and data sets use"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"GGUF", "a GGUF model"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the model itself"),
)
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


def describe_foreign_file(head: bytes) -> str | None:
    """Say what a file is, from its first 64 bytes or more; None where it is not known."""
    for offset, magic, description in _SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            return description
    if head.startswith(_PICKLE_STARTS):
        return "a Python pickle, which can run code when it is opened"
    # safetensors: little-endian header length in 8 bytes, then a JSON object.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "a safetensors file: weights without a graph"
    return None


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
    """Make sure that a path is a file of a sensible size, without opening it.

    Opening a pipe would wait for its writer for ever.

    Returns:
        Its size in bytes.

    Raises:
        ModelFileError: Missing, or no regular file.
        UnsupportedModelError: Too large.
    """
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ModelFileError(
            f"{path.name} does not exist", "Check the path of the model."
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise ModelFileError(f"{path.name} is a folder", "Give the .onnx file inside it.")
    if not stat.S_ISREG(status.st_mode):
        raise ModelFileError(
            f"{path.name} is not a regular file but a pipe, socket or device",
            "Save the model to a file first.",
        )
    if status.st_size > limits.file_bytes:
        raise over_limit(f"{path.name} has {status.st_size} bytes", limits.file_bytes)
    return status.st_size


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
        raise ModelFileError(
            f"{path.name} cannot be read: {error.strerror}", "Check its permissions."
        ) from error
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
    foreign = describe_foreign_file(content[:64])
    if foreign:
        raise ModelFileError(f"{file} is not an ONNX model but {foreign}", "Convert it to ONNX.")
