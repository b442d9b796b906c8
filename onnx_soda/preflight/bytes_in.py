"""Reads the file itself: a regular file of a sensible size that is not of another format."""

from __future__ import annotations

import stat
from pathlib import Path

from onnx_soda.errors import ModelFileError
from onnx_soda.preflight.limits import DEFAULT_LIMITS, Limits
from onnx_soda.preflight.refusal import over_limit
from onnx_soda.preflight.signatures import describe_foreign_file

__all__ = ["check_regular", "check_start", "read_model_file"]


def check_regular(path: Path, limits: Limits = DEFAULT_LIMITS) -> int:
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


def read_model_file(path: Path, limits: Limits) -> bytes:
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
