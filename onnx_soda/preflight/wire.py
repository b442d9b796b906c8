"""Walks over a model's bytes once before protobuf parses them.

protobuf builds an object for every message: a file of empty messages grows seventyfold in memory.
It also passes silently over fields that it does not know, where anything can hide. This walk
builds nothing, so both can be told beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx_soda.errors import ModelFileError
from onnx_soda.preflight.limits import Limits
from onnx_soda.preflight.refusal import over_limit, unreadable
from onnx_soda.preflight.schema import (
    BYTES,
    LIST,
    MESSAGE,
    NOTE,
    NUMBER,
    Field,
    Schema,
    model_schema,
)

__all__ = ["WireSummary", "walk_wire"]

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


def walk_wire(content: bytes, file: str, limits: Limits) -> WireSummary:
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
    def __init__(self, content: bytes, file: str, limits: Limits) -> None:
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
