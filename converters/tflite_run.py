"""The part of the TensorFlow Lite converter that runs TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_soda.errors import UnsupportedSourceError

from .protocol import Conversion, ConvertOptions
from .result import Source, finish

__all__ = ["convert_lite"]

_OPSET = 15
_PACKAGES = ("tensorflow", "tensorflow-cpu", "tf2onnx")


@dataclass(frozen=True)
class _Numbers:
    """How a tensor's numbers stand for real ones: real = scale (number - zero).

    Attributes:
        dtype: Type of the numbers.
        scale: 0 for floats, which stand for themselves.
        zero: The number that stands for 0.
    """

    dtype: np.dtype[Any]
    scale: float
    zero: int

    def numbers(self, real: NDArray[Any]) -> NDArray[Any]:
        """Return what stands for real numbers."""
        if not self.scale:
            return real.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        rounded = np.rint(real / np.float32(self.scale)) + self.zero
        numbers: NDArray[Any] = np.clip(rounded, limits.min, limits.max).astype(self.dtype)
        return numbers

    def real(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Return what numbers stand for."""
        if not self.scale:
            return numbers
        return ((numbers.astype(np.float32) - self.zero) * np.float32(self.scale)).astype(
            np.float32
        )


def convert_lite(converter: str, path: Path, out: Path, options: ConvertOptions) -> Conversion:
    """Convert a checked `.tflite` file.

    Args:
        converter: Name of the converter.
        path: The file.
        out: File to write.
        options: See `ConvertOptions`.

    Raises:
        UnsupportedSourceError: It takes more than one batch of images.
    """
    interpreter = tf.lite.Interpreter(model_path=str(path), num_threads=1)
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1:
        raise UnsupportedSourceError(
            f"{path.name} takes {len(inputs)} inputs, not one batch of images",
            "Convert a model that takes images alone.",
        )
    proto, _ = tf2onnx.convert.from_tflite(str(path), opset=options.opset or _OPSET)
    taken, given = _numbers_of(inputs[0]), [_numbers_of(one) for one in outputs]
    notes = tuple(_take_floats(proto, taken, given))

    def run(images: NDArray[Any]) -> list[NDArray[Any]]:
        interpreter.resize_tensor_input(inputs[0]["index"], images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(inputs[0]["index"], taken.numbers(images))
        interpreter.invoke()
        return [
            form.real(interpreter.get_tensor(one["index"]))
            for form, one in zip(given, outputs, strict=True)
        ]

    shape = (None, *(int(size) for size in inputs[0]["shape"][1:]))
    _free_batch(proto)
    source = Source(converter, path, run, shape, _PACKAGES, notes=notes)
    return finish(proto, source, out, options)


def _numbers_of(details: Any) -> _Numbers:
    scale, zero = details["quantization"]
    dtype = np.dtype(details["dtype"])
    return _Numbers(dtype, float(scale) if dtype.kind in "iu" else 0.0, int(zero))


def _take_floats(proto: onnx.ModelProto, taken: _Numbers, given: list[_Numbers]) -> list[str]:
    """Let a quantized model take and give real numbers; return what is to be said about it."""
    notes = []
    graph = proto.graph
    if taken.scale:
        image = graph.input[0]
        node = _step("QuantizeLinear", f"{image.name}_real", image.name, taken, graph)
        graph.node.insert(0, node)
        image.name = node.input[0]
        image.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        notes.append(f"The model takes {taken.dtype} images; the result quantizes by itself.")
    for form, output in zip(given, graph.output, strict=True):
        if form.scale:
            node = _step("DequantizeLinear", output.name, f"{output.name}_real", form, graph)
            graph.node.append(node)
            output.name = node.output[0]
            output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return notes


def _step(
    operator: str, source: str, target: str, form: _Numbers, graph: onnx.GraphProto
) -> onnx.NodeProto:
    names = [f"{target}_scale", f"{target}_zero"]
    for name, value in zip(
        names, (np.float32(form.scale), np.asarray(form.zero, form.dtype)), strict=True
    ):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return helper.make_node(operator, [source, *names], [target])


def _free_batch(proto: onnx.ModelProto) -> None:
    """Leave the number of images open: the file says one, and the operators take any."""
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "images"
    del proto.graph.value_info[:]
