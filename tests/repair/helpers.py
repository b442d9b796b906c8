"""Small graphs in ONNX's text form, run in torch and in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_soda._bridge import operators
from onnx_soda._bridge.attempts import convert, run
from onnx_soda._bridge.normalise import Prepared, prepare
from onnx_soda._bridge.operators.registry import OWN_DOMAIN, OWN_OPERATORS

assert operators.__all__  # imported for what it registers

Arrays = Mapping[str, Any]
OUTPUT = "y"


def graph_of(
    nodes: str, opset: int, images: Arrays, constants: Arrays | None = None
) -> onnx.ModelProto:
    """Return a model of nodes in text form, one a line; the last one computes `y`."""
    arrays = {name: _array(value) for name, value in images.items()}
    stored = {name: _array(value) for name, value in (constants or {}).items()}
    graph = helper.make_graph(
        [onnx.parser.parse_node(line) for line in nodes.strip().splitlines()],
        "g",
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in arrays.items()
        ],
        [helper.make_empty_tensor_value_info(OUTPUT)],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def _array(value: Any) -> NDArray[Any]:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def prepared(model: onnx.ModelProto) -> Prepared:
    stored = frozenset(tensor.name for tensor in model.graph.initializer)
    return prepare(ir.serde.deserialize_model(model), stored, OWN_DOMAIN, OWN_OPERATORS)


def in_torch(
    nodes: str, opset: int, images: Arrays, constants: Arrays | None = None
) -> NDArray[Any]:
    """Return what torch computes."""
    ready = prepared(graph_of(nodes, opset, images, constants))
    return run(convert(ready), ready, [_array(value) for value in images.values()])[0]


def in_onnxruntime(
    nodes: str, opset: int, images: Arrays, constants: Arrays | None = None
) -> NDArray[Any]:
    """Return what ONNX Runtime computes."""
    model = graph_of(nodes, opset, images, constants)
    feeds = {name: _array(value) for name, value in images.items()}
    output: NDArray[Any] = run_onnx(model, feeds)[0]
    return output


def run_onnx(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Run a whole model, as the operators are defined."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    outputs: list[Any] = session.run(None, dict(feeds))
    return outputs
