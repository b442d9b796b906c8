"""Brings models of old operator sets to one that what is added to graphs fits into.

`Max` and `Min` broadcast from opset 8 on, and `Where` is there from 9 on. onnx's own converter does
the work: https://onnx.ai/onnx/api/version_converter.html
"""

from __future__ import annotations

import onnx.version_converter
import onnx_ir as ir

from onnx_soda.errors import UnsupportedModelError

__all__ = ["upgraded"]

_LEAST = 9


def upgraded(model: ir.Model, file: str) -> ir.Model:
    """Return a model of opset 9 or newer that computes the same; names stay.

    Args:
        model: Without functions of its own. Returned as it is where it is new enough, or has
            weights in other files, which onnx's converter leaves behind.
        file: Its name, for errors.

    Raises:
        UnsupportedModelError: A node has no form in the newer opset.
    """
    stored = model.graph.initializers.values()
    apart = any(isinstance(value.const_value, ir.ExternalTensor) for value in stored)
    if model.graph.opset_imports.get("", _LEAST) >= _LEAST or apart:
        return model
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(model), _LEAST)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise UnsupportedModelError(
            f"{file} is of an operator set older than {_LEAST}, and onnx cannot convert it",
            f"Export it again for opset {_LEAST} or newer.",
        ) from error
    return ir.serde.deserialize_model(proto)
