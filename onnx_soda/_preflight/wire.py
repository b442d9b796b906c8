"""Walks over a model's bytes once before protobuf parses them.

protobuf builds an object for every message: a file of empty messages grows seventyfold in memory.
It also passes silently over fields that it does not know, where anything can hide. This walk
builds nothing, so both can be told beforehand.

What may stand in an ONNX file: for each message, its fields by their tag on the wire.

Built from the onnx package's own descriptors. The wire format:
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from onnx_soda._errors import ModelFileError
from onnx_soda._preflight.limits import FileLimits, over_limit, unreadable

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


_FIXED_SIZES = {1: 8, 5: 4}
# The longest number protobuf reads, in bytes of 7 bits each.
_LONGEST_VARINT = 10


@dataclass(frozen=True)
class WireSummary:
    """What a walk over the bytes found.

    Attributes:
        unknown: Bytes in fields that ONNX does not define, by the message that they stand in.
        doubled: Fields of the model that stand there twice; a reader keeps the last or merges.
        note_bytes: Bytes of all metadata and doc strings.
        longest_note: Bytes of the longest one.
    """

    unknown: dict[str, int]
    doubled: tuple[str, ...]
    note_bytes: int
    longest_note: int


def walk_wire(content: bytes, file: str, limits: FileLimits) -> WireSummary:
    """Check how much there is in a model, and how deep.

    Args:
        content: The file's bytes.
        file: File name to show.
        limits: The limits.

    Raises:
        ModelFileError: Not the bytes of a model, or a text in it is none.
        UnsupportedModelError: A limit is passed.
    """
    walk = _Walk(content, file, limits)
    try:
        walk.run()
    except IndexError:
        raise unreadable(file) from None
    return WireSummary(walk.unknown, tuple(walk.doubled), walk.note_bytes, walk.longest_note)


class _Walk:
    def __init__(self, content: bytes, file: str, limits: FileLimits) -> None:
        self.content, self.file, self.limits = content, file, limits
        self.parts = self.list_bytes = self.note_bytes = self.longest_note = 0
        self.unknown: dict[str, int] = {}
        self.doubled: dict[str, None] = {}
        self._seen: set[str] = set()
        # Messages that are open: end, kind, graphs around.
        self._open: list[tuple[int, Schema, int]] = []

    def run(self) -> None:
        content, is_open = self.content, self._open
        is_open.append((len(content), model_schema(), 0))
        position = 0
        while is_open:
            end, schema, _ = is_open[-1]
            if position == end:
                is_open.pop()
                continue
            start, tag = position, content[position]
            position += 1
            if tag > 127:
                tag, position = self._number(start)
            field = schema.fields.get(tag)
            if field is None:
                position = self._pass_over(tag, position)
                self.unknown[schema.name] = self.unknown.get(schema.name, 0) + position - start
            else:
                position = self._enter(field, position, end)
            if position > end:
                raise unreadable(self.file)

    def _enter(self, field: Field, position: int, end: int) -> int:
        """Go behind a field, or into it where it is a message."""
        if len(self._open) == 1 and not field.repeated:
            self._note_field(field.name)
        if field.kind == NUMBER:
            return self._pass_numbers(field, position, end)
        size, position = self._number(position)
        if position + size > end:
            raise unreadable(self.file)
        if field.kind == LIST:
            if self._open[-1][1].name != "TensorProto" or field.name == "dims":
                self._count_list(size)
        elif field.kind == MESSAGE:
            self._count_part()
            self._descend(field, position + size)
            return position
        else:
            self._pass_text(field, position, size)
        return position + size

    def _count_part(self) -> None:
        self.parts += 1
        if self.parts > self.limits.parts:
            raise over_limit(f"{self.file} has too many messages and texts", self.limits.parts)

    def _pass_text(self, field: Field, position: int, size: int) -> None:
        if field.kind != BYTES:
            self._count_part()
            self._check_text(field, position, size)
        elif field.repeated:  # strings of tensors and attributes
            self._count_part()

    def _descend(self, field: Field, end: int) -> None:
        schema = field.schema
        assert schema is not None  # noqa: S101 - messages have one
        graphs = self._open[-1][2] + (schema.name == "GraphProto")
        if graphs > self.limits.graph_depth:
            raise over_limit(f"{self.file} nests graphs {graphs} deep", self.limits.graph_depth)
        if len(self._open) >= self.limits.message_depth:
            raise over_limit(
                f"{self.file} nests messages {len(self._open) + 1} deep", self.limits.message_depth
            )
        self._open.append((end, schema, graphs))

    def _check_text(self, field: Field, position: int, size: int) -> None:
        """Refuse a string that is not text: protobuf takes it, and nobody downstream expects it."""
        try:
            self.content[position : position + size].decode()
        except UnicodeDecodeError:
            raise ModelFileError(
                f"{self.file} is damaged: {field.name} of a {self._open[-1][1].name} is not text",
                "Compare its digest with the source, and download it again.",
            ) from None
        if field.kind == NOTE:
            self.note_bytes += size
            self.longest_note = max(self.longest_note, size)
            if self.note_bytes > self.limits.note_bytes:
                raise over_limit(
                    f"{self.file} has too many bytes of metadata and doc strings",
                    self.limits.note_bytes,
                )
        elif size > self.limits.text_bytes:
            kind = self._open[-1][1].name
            raise over_limit(
                f"{self.file} has a {field.name} of {size} bytes in a {kind}",
                self.limits.text_bytes,
            )

    def _pass_numbers(self, field: Field, position: int, end: int) -> int:
        assert field.numbers is not None  # noqa: S101 - numbers have one
        match = field.numbers.match(self.content, position, end)
        if match is None:
            raise unreadable(self.file)
        if field.repeated:
            self._count_list(match.end() - position)
        return match.end()

    def _count_list(self, size: int) -> None:
        self.list_bytes += size
        if self.list_bytes > self.limits.list_bytes:
            raise over_limit(
                f"{self.file} has too many bytes of number lists", self.limits.list_bytes
            )

    def _pass_over(self, tag: int, position: int) -> int:
        """Go behind a field that ONNX does not define."""
        wire = tag & 7
        if tag >> 3 == 0:
            raise unreadable(self.file)
        if wire in _FIXED_SIZES:
            return position + _FIXED_SIZES[wire]
        if wire == 0:
            return self._number(position)[1]
        if wire == 2:
            size, position = self._number(position)
            return position + size
        # 3 and 4 are groups, which no writer of ONNX ever wrote; 6 and 7 mean nothing.
        raise unreadable(self.file)

    def _number(self, position: int) -> tuple[int, int]:
        """Read a number; return it and the position behind."""
        value = shift = 0
        for _ in range(_LONGEST_VARINT):
            byte = self.content[position]
            position += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, position
            shift += 7
        raise unreadable(self.file)

    def _note_field(self, name: str) -> None:
        if name in self._seen:
            self.doubled[name] = None
        self._seen.add(name)
