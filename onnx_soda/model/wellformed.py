"""Checks on a parsed model that protobuf leaves to the reader.

protobuf does not look whether the strings of a message are text, and hands out bytes where they
are not. Nobody downstream expects that, so such a file is refused as damaged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from onnx_soda.errors import ModelFileError

__all__ = ["check_text", "walk", "well_formed"]

# What onnx and onnx-ir raise on graphs that are none; most of onnx-ir's are RuntimeErrors.
_MALFORMED = (
    onnx.checker.ValidationError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def well_formed(file: str) -> Iterator[None]:
    """Turn a library's complaint about a graph into one that names the file.

    Args:
        file: File name to show.

    Raises:
        ModelFileError: The body raised one of the errors that a malformed graph causes.
    """
    try:
        yield
    except _MALFORMED as error:
        raise ModelFileError(
            f"{file} is not valid ONNX: {_root_cause(error)}", "Export it again."
        ) from error


def _root_cause(error: BaseException) -> str:
    """Return the first line of the innermost error: onnx-ir wraps the real one several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def walk(message: Message) -> Iterator[Message]:
    """Yield a message and every message inside it, each once."""
    stack = [message]
    while stack:
        current = stack.pop()
        yield current
        for name in _fields(current.DESCRIPTOR, FieldDescriptor.TYPE_MESSAGE):
            value = getattr(current, name)
            if not isinstance(value, Message):
                stack.extend(value)
            elif current.HasField(name):
                stack.append(value)


def check_text(message: Message, file: str) -> None:
    """Refuse a message with a string, in it or in a message inside it, that is not UTF-8.

    Raises:
        ModelFileError: There is one.
    """
    for part in walk(message):
        for name in _fields(part.DESCRIPTOR, FieldDescriptor.TYPE_STRING):
            value = getattr(part, name)
            texts = [value] if isinstance(value, str | bytes) else value
            if not all(isinstance(text, str) for text in texts):
                raise ModelFileError(
                    f"{file} is damaged: {name} of a {part.DESCRIPTOR.name} is not text",
                    "Compare its digest with the source, and download it again.",
                )


@cache
def _fields(kind: Descriptor, type_: int) -> tuple[str, ...]:
    """Return the names of the fields of a kind of message that have some type."""
    return tuple(field.name for field in kind.fields if field.type == type_)
