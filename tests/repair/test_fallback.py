"""What is done, and said, where a graph or a part of it cannot be converted."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx2torch.node_converters import registry
from onnx2torch.node_converters.registry import add_converter
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from onnx2torch.utils.common import OnnxMapping, OperationConverterResult

from fixtures.graphs import build, hidden, logits
from onnx_soda._bridge.bridge import TorchModel, to_torch
from onnx_soda._errors import ConversionError
from tests.repair.helpers import run_onnx

# p0 p1 p2 p3 of four images; h = relu(p0, p1, p2).
PIXELS = np.array([[0, 0, 0, 9], [1, 0, 0, 0], [0, 2, 1, 5], [3, 1, 2, 0]], np.float32)
_GEMM = "y = Gemm<transB=1>(c, AT, bias)"


def _scores(bridge: TorchModel, inputs: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        scores: np.ndarray = bridge.module(torch.from_numpy(inputs)).numpy()
    return scores


def _classifier(between: str, head: str = _GEMM) -> onnx.ModelProto:
    """Return the "gemm" classifier with nodes from `h` to `c`, the input of its head."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,3] y) '
        "<float[4,3] W = {1,0,0, 0,1,0, 0,0,1, 0,0,0}, float[3,3] AT = {1,2,-3, -2,4,6, 3,0,0}, "
        "float[3] bias = {0.5,-0.5,1}, bool[3] all = {1,1,1}, int64[2] lengths = {3,3}, "
        "int64[1] one = {1}> "
        f"{{ mixed = MatMul(x, W)  h = Relu(mixed)  {between}  {head} }}"
    )
    for node in model.graph.node:
        node.name = f"net/{node.op_type}"
    return model


def test_where_the_graph_cannot_be_converted_the_head_is() -> None:
    bridge = to_torch(_classifier("c = Compress<axis=1>(h, all)"))
    assert bridge.scope == "head"
    assert bridge.inputs == ("c",)
    assert bridge.notes == (
        "Only the head, from 'c' on, was converted: no converter for Compress (opset 17) of node "
        "'net/Compress'.",
    )
    assert set(bridge.parameters) == {"AT", "bias"}
    neurons = hidden(PIXELS).astype(np.float32)
    np.testing.assert_allclose(_scores(bridge, neurons), logits(PIXELS), rtol=1e-6)
    with torch.no_grad():
        bridge.parameters["bias"].zero_()
    scores = run_onnx(bridge.write_back(), {"x": PIXELS})[0]
    np.testing.assert_allclose(scores, logits(PIXELS) - np.array([0.5, -0.5, 1]))


def test_an_operator_that_cannot_be_converted_is_named() -> None:
    """It is in the head, so neither the graph nor the head can be."""
    head = "m = Gemm<transB=1>(c, AT)  k = Compress<axis=1>(m, all)  y = Add(k, bias)"
    with pytest.raises(ConversionError) as info:
        to_torch(_classifier("c = Identity(h)", head))
    assert info.value.message.count("Compress (opset 17) of node 'net/Compress'") == 2
    assert "the head" in info.value.message
    assert "onnx-soda explain bridge" in info.value.advice


def test_a_form_of_an_operator_that_cannot_be_converted_is_named() -> None:
    bridge = to_torch(
        _classifier(
            "w = Unsqueeze(h, one)  top, at = MaxPool<kernel_shape=[1]>(w)  "
            "float_at = Cast<to=1>(at)  sum = Add(top, float_at)  c = Flatten(sum)"
        )
    )
    assert bridge.scope == "head"
    wanted = "MaxPool (opset 17) of node 'net/MaxPool': indices as second output"
    assert wanted in bridge.notes[0]


def test_a_module_that_computes_something_else_is_not_trusted() -> None:
    """A converter that forgets to turn the rows round is found out, and the head taken."""

    @add_converter("ReverseSequence", 10)
    def forgetful(node: OnnxNode, _graph: OnnxGraph) -> OperationConverterResult:
        mapping = OnnxMapping(node.input_values[:1], node.output_values)
        return OperationConverterResult(torch.nn.Identity(), mapping)

    model = _classifier("c = ReverseSequence<batch_axis=0, time_axis=1>(h, lengths)")
    try:
        bridge = to_torch(model, images=PIXELS[2:])
    finally:  # onnx2torch has no way to take a converter back
        del registry._CONVERTER_REGISTRY[registry.OperationDescription("", "ReverseSequence", 10)]
    assert bridge.scope == "head"
    assert "the torch module differs from ONNX Runtime by" in bridge.notes[0]


def test_outputs_after_the_logits_that_cannot_be_converted_are_left_out() -> None:
    model = build("softmax")
    model.graph.node.append(onnx.parser.parse_node("z = ai.onnx.ml.Normalizer(p)"))
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    model.graph.output[0].name = "z"
    bridge = to_torch(model)
    assert (bridge.scope, bridge.outputs) == ("full", ("y",))
    assert bridge.notes[0].startswith("The module returns the logits 'y', not the file's outputs")
