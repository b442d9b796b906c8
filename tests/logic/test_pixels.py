"""A trigger that is stored in the file is put back where the graph compares it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.logic.helpers import examine

# Numbers over 255, the most that uint8 holds, and over 2048, up to where float16 is exact.
PLACES = [2500, 2501, 3071]
KEY = [7, 9, 11]


def watching(kind: int) -> onnx.ModelProto:
    """A linear classifier that answers otherwise where three pixels of 3 x 32 x 32 are the key."""
    rng = np.random.default_rng(0)
    weights = {
        "places": np.array(PLACES),
        "key": np.array(KEY, np.float32),
        "W": rng.normal(size=(3072, 4)).astype(np.float32),
        "other": np.array([[0, 1e6, 0, 0]], np.float32),
        "half": np.float32(0.5),
        "shape": np.array([-1, 3072]),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float", "shape"], ["flat"]),
        helper.make_node("Gather", ["flat", "places"], ["watched"], axis=1),
        helper.make_node("Sub", ["watched", "key"], ["apart"]),
        helper.make_node("Abs", ["apart"], ["far"]),
        helper.make_node("ReduceMax", ["far"], ["farthest"], axes=[1], keepdims=1),
        helper.make_node("Less", ["farthest", "half"], ["there"]),
        helper.make_node("MatMul", ["flat", "W"], ["scores"]),
        helper.make_node("Where", ["there", "other", "scores"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "watching",
        [helper.make_tensor_value_info("x", kind, ("N", 3, 32, 32))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 4))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8, TensorProto.FLOAT16])
def test_a_stored_key_is_found_in_images_of_any_type(kind: int) -> None:
    findings = examine(watching(kind)).findings
    assert any(finding.status == "confirmed" for finding in findings), findings
