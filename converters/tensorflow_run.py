"""The parts of the TensorFlow converters that run TensorFlow."""

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

from onnx_soda._answers import Conversion
from onnx_soda._errors import UnsupportedSourceError
from onnx_soda._options import ConvertOptions

from .result import Reference, Source, finish

# What PyTorch, for repair, can read of tf2onnx's files ends here.
OPSET = 15
_USUAL = "serving_default"
TENSORFLOW_PACKAGES = ("tensorflow", "tensorflow-cpu", "tf2onnx")


def convert_saved_model(
    converter: str, path: Path, copy: Path, out: Path, options: ConvertOptions
) -> Conversion:
    """Convert a checked copy of a SavedModel.

    Args:
        converter: Name of the converter.
        path: The folder, for its name.
        copy: What TensorFlow may read of it.
        out: File to write.
        options: See `ConvertOptions`.
    """
    loaded = tf.saved_model.load(str(copy))
    name, signature = _signature(loaded.signatures, path.name)
    keyword, spec = _images(signature, path.name)

    @tf.function(input_signature=[spec])  # type: ignore[untyped-decorator, unused-ignore]
    def scores(images: Any) -> list[Any]:
        found = signature(**{keyword: images})
        return [found[one] for one in sorted(found)]

    proto, _ = tf2onnx.convert.from_function(scores, [spec], opset=options.opset or OPSET)
    notes = () if name == _USUAL else (f"The signature {name} was taken.",)
    shape = tuple(spec.shape)
    source = Source(
        converter,
        path,
        scores_of(scores),
        shape,
        TENSORFLOW_PACKAGES,
        dtype=spec.dtype.name,
        notes=notes,
        content=copy,
    )
    return finish(proto, source, out, options)


def _signature(signatures: Any, file: str) -> tuple[str, Any]:
    """Return the usual signature, else the only one."""
    names = list(signatures)
    if _USUAL not in names and len(names) != 1:
        raise UnsupportedSourceError(
            f"{file} has {len(names)} signatures and none is {_USUAL}",
            f"Save it with one signature, or with {_USUAL}.",
        )
    name = _USUAL if _USUAL in names else names[0]
    return name, signatures[name]


def _images(signature: Any, file: str) -> tuple[str, Any]:
    """Return name and form of the one input."""
    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1:
        raise UnsupportedSourceError(
            f"{file} takes {len(inputs)} inputs, not one batch of images",
            "Export a model that takes images alone.",
        )
    ((keyword, spec),) = inputs.items()
    if spec.shape.rank is None:
        raise UnsupportedSourceError(
            f"{file} does not tell the shape of its images", "Export it with an input shape."
        )
    return keyword, tf.TensorSpec(spec.shape, spec.dtype, name=keyword)


def scores_of(function: Any) -> Reference:
    """Return what runs a TensorFlow function on a batch."""
    return lambda images: [one.numpy() for one in tf.nest.flatten(function(tf.constant(images)))]


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
