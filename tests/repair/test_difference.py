"""What `onnx-soda diff` is made from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from fixtures.graphs import build
from onnx_soda._repair.files import compare_models


def changed(name: str, array: np.ndarray) -> onnx.ModelProto:
    model = build("gemm")
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return model


def test_a_model_equals_itself() -> None:
    found = compare_models(build("gemm"), build("gemm"))
    assert found.changes == ()
    assert found.same_graph
    assert found.same_tensors == len(build("gemm").graph.initializer)


def test_changed_values_are_counted_and_measured() -> None:
    # bias = (0.5, -0.5, 1) becomes (0.5, 1.5, 1): one value of three, by 2, which is twice the
    # largest.
    found = compare_models(build("gemm"), changed("bias", np.array([0.5, 1.5, 1], np.float32)))
    (change,) = found.changes
    assert (change.name, change.size, change.changed) == ("bias", 3, 1)
    assert change.largest == pytest.approx(2)
    assert change.relative == pytest.approx(2)


def test_nan_equals_nan() -> None:
    array = np.array([np.nan, 0, 1], np.float32)
    assert compare_models(changed("bias", array), changed("bias", array)).changes == ()


def test_other_shapes_names_and_nodes_are_told_apart() -> None:
    found = compare_models(build("gemm"), changed("bias", np.zeros(4, np.float32)))
    assert found.reshaped == ("bias",)
    other = compare_models(build("gemm"), build("matmul_add"))
    assert not other.same_graph
    assert other.only_first == ("AT",)
    assert other.only_second == ("A",)


def constant(**value: float) -> onnx.ModelProto:
    """A model that adds a number, held by a Constant in its shortest form."""
    model = build("gemm")
    graph = model.graph
    last = graph.node[-1]
    result, last.output[0] = last.output[0], "before"
    graph.node.append(helper.make_node("Constant", [], ["number"], **value))
    graph.node.append(helper.make_node("Add", ["before", "number"], [result]))
    return model


def calling(operator: str) -> onnx.ModelProto:
    """A model that ends in a function of its own."""
    model = build("gemm")
    last = model.graph.node[-1]
    result, last.output[0] = last.output[0], "before"
    model.graph.node.append(helper.make_node("turn", ["before"], [result], domain="own"))
    model.opset_import.append(helper.make_opsetid("own", 1))
    body = [helper.make_node(operator, ["x"], ["y"])]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "turn", ["x"], ["y"], body, opsets))
    return model


def test_what_is_no_tensor_and_computes_something_else_is_another_graph() -> None:
    newer = build("gemm")
    newer.opset_import[0].version += 1
    assert not compare_models(build("gemm"), newer).same_graph
    assert compare_models(calling("Neg"), calling("Neg")).same_graph
    assert not compare_models(calling("Neg"), calling("Relu")).same_graph
    assert compare_models(constant(value_float=1.0), constant(value_float=1.0)).same_graph
    assert not compare_models(constant(value_float=1.0), constant(value_float=1000.0)).same_graph


def test_a_constant_that_is_a_tensor_is_compared_as_one() -> None:
    one, two = (constant(value=numpy_helper.from_array(np.float32(n))) for n in (1, 3))
    found = compare_models(one, two)
    assert found.same_graph
    assert [(change.name, change.largest) for change in found.changes] == [("number", 2)]
