"""Where a weight stands in an ONNX file, and how a changed value gets there.

Only tensors whose value changed are touched; everything else in the file stays as it is, byte for
byte.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_soda.errors import WriteBackError

__all__ = ["stored_tensors", "with_values"]

# Where a TensorProto may keep its elements; raw_data is what is written.
_ELEMENT_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


def stored_tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the tensors that a model's main graph stores, by name.

    Initializers, and the values of Constant nodes by the name of their output.
    """
    found = {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx")
        for attribute in node.attribute
        if attribute.name == "value"
    }
    return found | {tensor.name: tensor for tensor in model.graph.initializer}


def with_values(
    model: onnx.ModelProto, values: Mapping[str, NDArray[np.generic]]
) -> onnx.ModelProto:
    """Return a copy of a model with other values of stored tensors.

    Args:
        model: The model; stays as it is.
        values: New values by name, with the shape of the stored tensor; a value equal to the
            stored one leaves it untouched.

    Raises:
        WriteBackError: A value has another shape.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = stored_tensors(copy)
    for name, value in values.items():
        _store(tensors[name], name, value)
    return copy


def _store(tensor: onnx.TensorProto, name: str, value: NDArray[np.generic]) -> None:
    stored = numpy_helper.to_array(tensor)
    if stored.shape != value.shape:
        raise WriteBackError(
            f"the weight {name!r} has shape {value.shape}, in the file {stored.shape}",
            "A repair changes the values of weights, not their shapes.",
        )
    new = np.ascontiguousarray(value.astype(stored.dtype))
    if new.tobytes() == stored.tobytes():
        return
    for field in _ELEMENT_FIELDS:
        tensor.ClearField(field)
    tensor.raw_data = new.astype(new.dtype.newbyteorder("<")).tobytes()
