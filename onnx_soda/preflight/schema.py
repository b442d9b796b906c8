"""What may stand in an ONNX file: for each message, its fields by their tag on the wire.

Built from the onnx package's own descriptors. The wire format:
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor

__all__ = ["BYTES", "LIST", "MESSAGE", "NOTE", "NUMBER", "TEXT", "Field", "Schema", "model_schema"]

MESSAGE, TEXT, NOTE, BYTES, NUMBER, LIST = range(6)
"""Kinds of field; a note is a text for people: documentation or metadata; a list is packed."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED = {
    FieldDescriptor.TYPE_FLOAT: _FIXED32,
    FieldDescriptor.TYPE_DOUBLE: _FIXED64,
    FieldDescriptor.TYPE_FIXED32: _FIXED32,
    FieldDescriptor.TYPE_FIXED64: _FIXED64,
    FieldDescriptor.TYPE_SFIXED32: _FIXED32,
    FieldDescriptor.TYPE_SFIXED64: _FIXED64,
}
# A number on the wire, by its wire type.
_NUMBERS = {_VARINT: rb"[\x80-\xff]{0,9}+[\x00-\x7f]", _FIXED32: rb".{4}", _FIXED64: rb".{8}"}


@dataclass(frozen=True, eq=False)
class Schema:
    """A kind of message.

    Attributes:
        name: Its name.
        fields: Its fields by tag (number and wire type).
    """

    name: str
    fields: dict[int, Field]


@dataclass(frozen=True, eq=False)
class Field:
    """A field of a message, in one of its forms on the wire.

    Attributes:
        name: Its name.
        kind: What follows the tag.
        schema: The message inside; None where it is none.
        numbers: Matches the numbers that follow the first tag, with further tags of this field.
        repeated: It may stand there many times.
    """

    name: str
    kind: int
    schema: Schema | None
    numbers: re.Pattern[bytes] | None
    repeated: bool


@cache
def model_schema() -> Schema:
    """Return the schema of a whole model."""
    return _schema(onnx.ModelProto.DESCRIPTOR, {})


def _schema(kind: Descriptor, known: dict[str, Schema]) -> Schema:
    if kind.full_name not in known:
        schema = known[kind.full_name] = Schema(kind.name, {})
        for field in kind.fields:
            schema.fields.update(_forms(field, kind, known))
    return known[kind.full_name]


def _forms(field: FieldDescriptor, kind: Descriptor, known: dict[str, Schema]) -> dict[int, Field]:
    repeated = field.is_repeated
    long = field.number << 3 | _LENGTH
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        inner = _schema(field.message_type, known)
        return {long: Field(field.name, MESSAGE, inner, None, repeated)}
    if field.type == FieldDescriptor.TYPE_STRING:
        is_note = field.name == "doc_string" or kind.name == "StringStringEntryProto"
        return {long: Field(field.name, NOTE if is_note else TEXT, None, None, repeated)}
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {long: Field(field.name, BYTES, None, None, repeated)}
    wire = _FIXED.get(field.type, _VARINT)
    tag = field.number << 3 | wire
    single = Field(field.name, NUMBER, None, _run(tag, wire), repeated)
    forms = {tag: single}
    if repeated:  # readers take both forms, whichever the schema prefers
        forms[long] = Field(field.name, LIST, None, None, repeated)
    return forms


def _run(tag: int, wire: int) -> re.Pattern[bytes]:
    """Return a pattern for a number and, as lists are written, more behind the same tag."""
    written = bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])
    number = _NUMBERS[wire]
    return re.compile(number + b"(?:" + re.escape(written) + number + b")*+", re.DOTALL)
