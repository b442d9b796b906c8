"""Reads of a `.tflite` file which operators it has, without TensorFlow, and within its bounds.

A FlatBuffer: tables found by offsets, each with a table of where its fields are
(flatbuffers.dev, "FlatBuffer Internals"). Every position is checked before it is read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .refusals import bomb, damaged

__all__ = ["TfliteFacts", "read_facts"]

_IDENTIFIER = b"TFL3"
# Positions of fields in the tables Model, OperatorCode and SubGraph (TensorFlow Lite, schema.fbs).
_CODES, _SUBGRAPHS, _BUFFERS = 1, 2, 4
_OLD_CODE, _CUSTOM_CODE, _CODE = 0, 1, 3
_OPERATORS = 3
_MOST = 100_000


@dataclass(frozen=True)
class TfliteFacts:
    """What a file would run.

    Attributes:
        codes: Number of each kind of built-in operator that it lists.
        custom: Names of operators that are not built in.
        subgraphs: Number of its graphs.
        operators: Number of operators in the first one.
    """

    codes: tuple[int, ...]
    custom: tuple[str, ...]
    subgraphs: int
    operators: int


def read_facts(content: bytes, file: str) -> TfliteFacts:
    """Read what a file would run.

    Raises:
        ConvertError: It is cut short, or its offsets lead elsewhere.
        UnsafeSourceError: It has more parts than any classifier.
    """
    reader = _Reader(content, file)
    try:
        if content[4:8] != _IDENTIFIER:
            raise IndexError
        model = reader.follow(0)
        codes, custom = [], []
        for code in reader.tables(model, _CODES):
            # Codes over 127 do not fit the old field, which then says 127.
            codes.append(max(reader.byte(code, _OLD_CODE), reader.integer(code, _CODE)))
            name = reader.text(code, _CUSTOM_CODE)
            if name:
                custom.append(name)
        graphs = list(reader.tables(model, _SUBGRAPHS))
        operators = sum(1 for _ in reader.tables(graphs[0], _OPERATORS)) if graphs else 0
        sum(1 for _ in reader.tables(model, _BUFFERS))
    except (struct.error, IndexError) as error:
        raise damaged(f"{file} is no whole TensorFlow Lite model") from error
    return TfliteFacts(tuple(codes), tuple(custom), len(graphs), operators)


class _Reader:
    """Reads numbers, text and tables at checked positions; wrong ones raise IndexError."""

    def __init__(self, content: bytes, file: str) -> None:
        self._content = content
        self._file = file
        self._read = 0

    def _number(self, form: str, position: int) -> int:
        if position < 0:
            raise IndexError(position)
        (value,) = struct.unpack_from(form, self._content, position)
        return int(value)

    def follow(self, position: int) -> int:
        """Return where the offset at a position leads; only ever forward."""
        target = position + self._number("<I", position)
        if not position < target < len(self._content):
            raise IndexError(target)
        return target

    def _field(self, table: int, field: int) -> int | None:
        """Return the position of a field; None where it is left out."""
        places = table - self._number("<i", table)
        size = self._number("<H", places)
        entry = 4 + 2 * field
        offset = self._number("<H", places + entry) if entry + 2 <= size else 0
        return table + offset if offset else None

    def byte(self, table: int, field: int) -> int:
        """Return a field of one byte; 0 where it is left out."""
        place = self._field(table, field)
        return 0 if place is None else self._number("<b", place)

    def integer(self, table: int, field: int) -> int:
        """Return a field of four bytes; 0 where it is left out."""
        place = self._field(table, field)
        return 0 if place is None else self._number("<i", place)

    def text(self, table: int, field: int) -> str:
        """Return a field of text; "" where it is left out."""
        place = self._field(table, field)
        if place is None:
            return ""
        start = self.follow(place)
        size = self._number("<I", start)
        if start + 4 + size > len(self._content):
            raise IndexError(size)
        return self._content[start + 4 : start + 4 + size].decode("utf-8", "replace")

    def tables(self, table: int, field: int) -> Iterator[int]:
        """Yield the tables of a list; none where it is left out."""
        place = self._field(table, field)
        if place is None:
            return
        start = self.follow(place)
        size = self._number("<I", start)
        self._read += size
        if self._read > _MOST:
            raise bomb(f"{self._file} has over {_MOST:,} parts")
        for index in range(size):
            yield self.follow(start + 4 + 4 * index)
