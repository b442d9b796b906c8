"""TensorFlow Lite: `.tflite`, float and quantized, by tf2onnx.

The file holds built-in operators by number and others by name: custom ones, and "flex" ones that
are TensorFlow's. Only built-in ones of image classifiers are let in.

Reads of a `.tflite` file which operators it has, without TensorFlow, and within its bounds.

A FlatBuffer: tables found by offsets, each with a table of where its fields are
(flatbuffers.dev, "FlatBuffer Internals"). Every position is checked before it is read.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from onnx_soda._answers import Conversion
from onnx_soda._errors import ConvertError
from onnx_soda._options import ConvertOptions

from .refusals import bomb, damaged, explaining, runs_code

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


_BYTES = 2**31 - 1
# Numbers of the enum BuiltinOperator in TensorFlow Lite's schema.fbs.
_NUMBERED = """
    ADD:0 AVERAGE_POOL_2D:1 CONCATENATION:2 CONV_2D:3 DEPTHWISE_CONV_2D:4 DEQUANTIZE:6
    FULLY_CONNECTED:9 L2_NORMALIZATION:11 LOGISTIC:14 MAX_POOL_2D:17 MUL:18 RELU:19
    RELU_N1_TO_1:20 RELU6:21 RESHAPE:22 RESIZE_BILINEAR:23 SOFTMAX:25 TANH:28 PAD:34 GATHER:36
    BATCH_TO_SPACE_ND:37 SPACE_TO_BATCH_ND:38 TRANSPOSE:39 MEAN:40 SUB:41 DIV:42 SQUEEZE:43
    STRIDED_SLICE:45 EXP:47 SPLIT:49 LOG_SOFTMAX:50 CAST:53 PRELU:54 MAXIMUM:55 MINIMUM:57 NEG:59
    PADV2:60 SLICE:65 TRANSPOSE_CONV:67 EXPAND_DIMS:70 SUM:74 SQRT:75 RSQRT:76 SHAPE:77 POW:78
    REDUCE_PROD:81 REDUCE_MAX:82 PACK:83 UNPACK:88 REDUCE_MIN:89 SQUARE:92 FILL:94
    RESIZE_NEAREST_NEIGHBOR:97 LEAKY_RELU:98 SQUARED_DIFFERENCE:99 MIRROR_PAD:100 ABS:101
    SPLIT_V:102 ELU:111 QUANTIZE:114 HARD_SWISH:117 BATCH_MATMUL:126 BROADCAST_TO:130 GELU:150
    """
BUILT_IN = {name: int(number) for name, number in (entry.split(":") for entry in _NUMBERED.split())}
"""Built-in operators that are let in, with their numbers."""
_ADVICE = "Convert it with TensorFlow's built-in operators alone (TFLITE_BUILTINS)."
_LOADS_NOT = "Convert it yourself with tf2onnx, in an environment you can throw away."


class TfliteConverter:
    """Reads what `tf.lite.TFLiteConverter` writes."""

    name = "TensorFlow Lite (.tflite)"
    extra = "tensorflow"
    packages = ("tensorflow", "tf2onnx")

    def can_read(self, path: Path) -> bool:
        """See `Converter`."""
        with path.open("rb") as stream:
            return stream.read(8)[4:] == b"TFL3"

    def precheck(self, path: Path) -> None:
        """See `Converter`."""
        if path.stat().st_size > _BYTES:
            raise bomb(f"{path.name} has {path.stat().st_size} bytes, over the limit of {_BYTES}")
        facts = read_facts(path.read_bytes(), path.name)
        if facts.custom:
            raise runs_code(
                f"{path.name} needs the operator {facts.custom[0][:80]!r}, which is not built into "
                "TensorFlow Lite",
                _ADVICE,
            )
        unknown = sorted(set(facts.codes) - set(BUILT_IN.values()))
        if unknown:
            raise runs_code(
                f"{path.name} needs the built-in operator {unknown[0]}, which is not among those "
                "allowed",
                _ADVICE,
            )
        if facts.subgraphs != 1:
            raise ConvertError(
                f"{path.name} has {facts.subgraphs} graphs, not one",
                "Export the classifier alone, without control flow, or as ONNX.",
            )

    def load(self) -> None:
        """See `Converter`."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import_module("onnx_soda._converters.tensorflow_run")

    def convert(self, path: Path, out: Path, options: ConvertOptions) -> Conversion:
        """See `Converter`."""
        with explaining(f"TensorFlow Lite cannot convert {path.name}", _LOADS_NOT):
            from .tensorflow_run import convert_lite

            return convert_lite(self.name, path, out, options)
