"""Models that are written otherwise: functions, half precision, initializers as inputs, sizes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import torch
from onnx import helper, numpy_helper

from fixtures.families import build_family
from fixtures.graphs import build
from onnx_soda._bridge.bridge import stored_tensors, to_torch
from tests.repair.helpers import run_onnx


def test_functions_are_put_in() -> None:
    """h = relu(x W), y = h A + (1, 2, 3); what the body of a function holds is no weight."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "own" : 1]> '
        "g (float[N,2] x) => (float[N,3] y) "
        "<float[2,3] W = {1,0,0, 0,1,0}, float[3,3] A = {1,0,0, 0,1,0, 0,0,1}> "
        "{ h = own.layer(x, W)  y = own.scores(h, A) } "
        '<domain: "own", opset_import: ["" : 17]> layer (x, w) => (y) '
        "{ m = MatMul(x, w)  y = Relu(m) } "
        '<domain: "own", opset_import: ["" : 17]> scores (x, w) => (y) '
        "{ c = Constant<value = float[3] {1,2,3}>()  m = MatMul(x, w)  y = Add(m, c) }"
    )
    bridge = to_torch(model)
    assert (bridge.scope, set(bridge.parameters)) == ("full", {"W", "A"})
    image = torch.tensor([[4.0, -4.0]])
    np.testing.assert_allclose(bridge.module(image).detach(), [[5, 2, 3]])
    with torch.no_grad():
        bridge.parameters["A"].mul_(2)
    written = bridge.write_back()
    np.testing.assert_allclose(run_onnx(written, {"x": image.numpy()})[0], [[9, 2, 3]])
    assert written.functions == model.functions


def test_half_precision_stays_half() -> None:
    model = build_family("matmul head", 17)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    bridge = to_torch(model)
    assert bridge.scope == "full"
    assert {weight.dtype for weight in bridge.parameters.values()} == {torch.float16}
    assert bridge.write_back() == model
    # Training is often done in single precision: what comes back is half again.
    bridge.module.float()
    with torch.no_grad():
        bridge.parameters["k"].fill_(1 / 3)
    stored = stored_tensors(bridge.write_back())
    assert stored["k"].data_type == onnx.TensorProto.FLOAT16
    np.testing.assert_array_equal(numpy_helper.to_array(stored["k"]), np.float16(1 / 3))
    assert stored["b9"] == stored_tensors(model)["b9"]


def test_initializers_may_be_inputs_too() -> None:
    """As files of IR version 3 have it."""
    model = build("gemm")
    model.graph.input.extend(
        helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in model.graph.initializer
    )
    bridge = to_torch(model)
    assert bridge.inputs == ("x",)
    assert set(bridge.parameters) == {"W", "AT", "bias"}
    assert bridge.write_back() == model


def test_a_free_image_size_stays_free() -> None:
    model = build_family("convolution", 17)
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
    bridge = to_torch(model)
    images = np.random.default_rng(0).random((3, 3, 12, 9), np.float32)
    with torch.no_grad():
        found = bridge.module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, run_onnx(model, {"image": images})[0], rtol=1e-4)


def test_the_number_of_images_that_a_model_insists_on_is_kept() -> None:
    """Five real images for a model that takes four at a time, and one for the same."""
    pixels = np.arange(20, dtype=np.float32).reshape(5, 1, 2, 2)
    for count in (5, 1):
        assert to_torch(build("batch_of_four"), images=pixels[:count]).parity <= 1e-6
