"""What `onnx-soda diff` is made from."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fixtures.graphs import build
from onnx_soda.repair.difference import compare_models


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
