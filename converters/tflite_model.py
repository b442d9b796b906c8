"""TensorFlow Lite: `.tflite`, float and quantized, by tf2onnx.

The file holds built-in operators by number and others by name: custom ones, and "flex" ones that
are TensorFlow's. Only built-in ones of image classifiers are let in.
"""

from __future__ import annotations

import os
from pathlib import Path

from .protocol import Conversion, ConvertOptions
from .refusals import bomb, explaining, runs_code
from .tflite_buffer import read_facts

__all__ = ["BUILT_IN", "TfliteConverter"]

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
            raise runs_code(f"{path.name} has {facts.subgraphs} graphs, not one", _ADVICE)

    def load(self) -> None:
        """See `Converter`."""
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from . import tflite_run  # noqa: F401

    def convert(self, path: Path, out: Path, options: ConvertOptions) -> Conversion:
        """See `Converter`."""
        with explaining(f"TensorFlow Lite cannot convert {path.name}", _LOADS_NOT):
            from .tflite_run import convert_lite

            return convert_lite(self.name, path, out, options)
