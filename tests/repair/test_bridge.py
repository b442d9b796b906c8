"""The public face: what is converted, what is written back, what is said where it cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest
import torch

from fixtures.families import build_family
from fixtures.graphs import HEADS, build, hidden, logits
from onnx_soda._bridge.bridge import TorchModel, stored_tensors, to_torch
from onnx_soda._errors import (
    ExternalDataError,
    NotAClassifierError,
    TensorNotFoundError,
    WriteBackError,
)
from tests.repair.helpers import run_onnx

# p0 p1 p2 p3 of four images; h = relu(p0, p1, p2).
PIXELS = np.array([[0, 0, 0, 9], [1, 0, 0, 0], [0, 2, 1, 5], [3, 1, 2, 0]])
QUANTIZED = {"weight_dequantized", "qdq"}
# Which initializer (or Constant) holds the last matrix.
MATRIX_NAMES = {
    "gemm": "AT", "matmul_add": "A", "add_bias_first": "A", "weight_behind_identity": "A",
    "weight_constant": "B", "weight_cast": "A", "weight_transposed": "AT", "conv_pool": "K",
    "keras": "A", "softmax": "AT", "batch_of_four": "AT", "uint8_input": "AT",
}  # fmt: skip


def _images(head: str, pixels: np.ndarray = PIXELS) -> np.ndarray:
    declared = build(head).graph.input[0].type.tensor_type
    sizes = [dimension.dim_value for dimension in declared.shape.dim][1:]
    rows = declared.shape.dim[0].dim_value or len(pixels)
    dtype = np.uint8 if declared.elem_type == onnx.TensorProto.UINT8 else np.float32
    return pixels[:rows].reshape(rows, *sizes).astype(dtype)


def _scores(bridge: TorchModel, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found = bridge.module(torch.from_numpy(images))
    first = found if isinstance(found, torch.Tensor) else found[0]
    scores: np.ndarray = first.numpy()
    return scores


@pytest.mark.parametrize("head", HEADS)
def test_every_head_style_is_converted_whole(head: str) -> None:
    model = build(head)
    bridge = to_torch(model, images=_images(head))
    assert bridge.scope == "full"
    assert bridge.parity <= 1e-6
    assert bridge.inputs == ("x",)
    assert bool(bridge.notes) == (head in QUANTIZED)
    assert dict(bridge.module.named_parameters()).keys()
    assert {id(weight) for weight in bridge.module.parameters()} == {
        id(weight) for weight in bridge.parameters.values()
    }


@pytest.mark.parametrize("head", HEADS)
def test_the_module_gives_the_scores_worked_out_by_hand(head: str) -> None:
    bridge = to_torch(build(head), outputs=[HEADS[head].logits])
    images = _images(head)
    scores = _scores(bridge, images)
    if HEADS[head].plain:
        wanted = logits(PIXELS[: len(images)])
        np.testing.assert_allclose(scores.reshape(wanted.shape), wanted, rtol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_an_unchanged_model_comes_back_as_it_was(head: str) -> None:
    model = build(head)
    before = model.SerializeToString()
    assert to_torch(model).write_back().SerializeToString() == before
    assert model.SerializeToString() == before


@pytest.mark.parametrize("head", MATRIX_NAMES)
def test_a_changed_weight_is_written_where_it_came_from(head: str) -> None:
    """The score of class 0 reads each neuron twice as much; nothing else in the file changes."""
    model, name = build(head), MATRIX_NAMES[head]
    bridge = to_torch(model)
    weight = bridge.parameters[name]
    with torch.no_grad():
        if tuple(weight.shape) == (3, 3) and name != "AT":
            weight[:, 0] *= 2
        else:  # transposed, and the kernel of a convolution: outputs first
            weight[0] *= 2
    written = bridge.write_back()
    images = _images(head)
    np.testing.assert_allclose(
        run_onnx(written, {"x": images})[0], _scores(bridge, images), rtol=1e-6
    )
    changed = {
        key
        for key, tensor in stored_tensors(written).items()
        if tensor != stored_tensors(model)[key]
    }
    assert changed == {name}
    _restore(written, model, name)
    assert written == model


def _restore(written: onnx.ModelProto, model: onnx.ModelProto, name: str) -> None:
    stored_tensors(written)[name].CopyFrom(stored_tensors(model)[name])


def test_the_written_scores_are_those_worked_out() -> None:
    """h = (3, 1, 2); class 1 had -2*3 + 4*1 + 6*2 - 0.5 = 9.5, and now 5*3 + 4*1 + 6*2 - 0.5."""
    bridge = to_torch(build("gemm"))
    with torch.no_grad():
        bridge.parameters["AT"][1, 0] = 5
    images = _images("gemm", PIXELS[3:])
    scores = run_onnx(bridge.write_back(), {"x": images})[0]
    np.testing.assert_allclose(scores, [[-0.5, 30.5, 10.0]])


def test_a_training_step_changes_the_same_file_as_the_module() -> None:
    bridge = to_torch(build("matmul_add"))
    optimiser = torch.optim.SGD(bridge.module.parameters(), lr=0.01)
    images = _images("matmul_add")
    bridge.module(torch.from_numpy(images)).square().sum().backward()
    optimiser.step()
    written = run_onnx(bridge.write_back(), {"x": images})[0]
    assert np.abs(written - logits(PIXELS)).max() > 0.1
    np.testing.assert_allclose(written, _scores(bridge, images), rtol=1e-5)


@pytest.mark.parametrize(
    "operator", ["LpPool<kernel_shape=[2,2]>", "GlobalLpPool", "LpNormalization<axis=1>"]
)
def test_norms_of_zero_have_a_gradient_that_is_a_number(operator: str) -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,1,2,2] x) => (float[N,2] y) '
        "<float[1,1,1,1] K = {1}, float[2,2] A = {1,0, 0,1}> "
        f"{{ c = Conv(x, K)  n = {operator}(c)  g = GlobalMaxPool(n)  s = Flatten(g)  "
        "t = Concat<axis=1>(s, s)  y = MatMul(t, A) }"
    )
    bridge = to_torch(onnx.parser.parse_model(text))
    image = torch.zeros(1, 1, 2, 2, requires_grad=True)
    bridge.module(image).sum().backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()


def test_bounds_that_nothing_trains_stop_slopes_outside_of_them() -> None:
    """Clip to 0 and 6: only the second of -1, 3 and 7 moves the sum, by as much as it moves."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,3] y) '
        "<float low = {0}, float high = {6}, float[3,3] A = {1,0,0, 0,1,0, 0,0,1}> "
        "{ h = Clip(x, low, high)  y = MatMul(h, A) }"
    )
    bridge = to_torch(onnx.parser.parse_model(text))
    image = torch.tensor([[-1.0, 3.0, 7.0]], requires_grad=True)
    bridge.module(image).sum().backward()
    assert image.grad is not None
    assert image.grad.tolist() == [[0, 1, 0]]


def test_a_bound_that_is_a_weight_elsewhere_has_a_slope() -> None:
    """y = min(x, s) s with s = 2 and x = 5: s s, whose slope is 4; with x = 1 it is x = 1."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y) '
        "<float[1] s = {2}, float[2,2] A = {1,0, 0,1}> "
        "{ q = Squeeze(s)  c = Clip(x, , q)  h = Mul(c, s)  y = MatMul(h, A) }"
    )
    bridge = to_torch(onnx.parser.parse_model(text))
    for x, slope in ((5.0, 4.0), (1.0, 1.0)):
        bridge.module(torch.tensor([[x, -100.0]]))[0, 0].backward()
        weight = bridge.parameters["s"]
        assert weight.grad is not None
        assert weight.grad.item() == slope
        weight.grad = None


def test_a_trained_convolution_is_written_in_the_order_of_the_file() -> None:
    """Of 2 x 3 x 2 x 2 weights each is another number, and each is added its place to."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,2,2] x) => (float[N,2] y) '
        f"<float[2,3,2,2] K = {{{', '.join(map(str, range(24)))}}}, float[2,2] A = {{1,0, 0,1}}> "
        "{ c = Conv(x, K)  f = Flatten(c)  y = MatMul(f, A) }"
    )
    places = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    bridge = to_torch(onnx.parser.parse_model(text))
    with torch.no_grad():
        bridge.parameters["K"].add_(torch.from_numpy(places))
    written = stored_tensors(bridge.write_back())["K"]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(written), 2 * places)
    image = places[:1] / 8
    np.testing.assert_allclose(
        run_onnx(bridge.write_back(), {"x": image})[0], _scores(bridge, image), rtol=1e-6
    )


def test_a_weight_read_twice_is_one_parameter() -> None:
    """y = h A + h A: the gradient of A is twice that of h A, and both follow a change."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3] x) => (float[N,3] y) '
        "<float[3,3] A = {1,0,0, 0,1,0, 0,0,1}> "
        "{ h = Relu(x)  a = MatMul(h, A)  b = Gemm<transB=1>(h, A)  y = Add(a, b) }"
    )
    bridge = to_torch(onnx.parser.parse_model(text))
    assert list(bridge.parameters) == ["A"]
    image = np.array([[1, 2, 3]], np.float32)
    bridge.module(torch.from_numpy(image)).sum().backward()
    # d/dA[i, j] of sum(h A) is h_i, of sum(h A') it is h_j
    gradient = bridge.parameters["A"].grad
    assert gradient is not None
    np.testing.assert_allclose(gradient.numpy(), np.add.outer([1, 2, 3], [1, 2, 3]))
    with torch.no_grad():
        bridge.parameters["A"].mul_(10)
    np.testing.assert_allclose(run_onnx(bridge.write_back(), {"x": image})[0], [[20, 40, 60]])


def test_a_setting_that_is_a_weight_elsewhere_follows_it() -> None:
    """One initializer is scale and variance: (x - 0) / sqrt(4) * 4 = 2 x, and with 9 3 x."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y) '
        "<float[2] s = {4,4}, float[2] b = {0,0}, float[2,2] A = {1,0, 0,1}> "
        "{ h = MatMul(x, A)  n = BatchNormalization<epsilon=0.0>(h, s, b, b, s)  y = MatMul(n, A) }"
    )
    bridge = to_torch(onnx.parser.parse_model(text))
    image = np.array([[1, 2]], np.float32)
    np.testing.assert_allclose(_scores(bridge, image), [[2, 4]])
    with torch.no_grad():
        bridge.parameters["s"].fill_(9)
    np.testing.assert_allclose(_scores(bridge, image), [[3, 6]])
    np.testing.assert_allclose(run_onnx(bridge.write_back(), {"x": image})[0], [[3, 6]])


def test_batch_norm_and_dropout_stay_in_inference_mode() -> None:
    """(x - 1) / sqrt(4) * 10 + 5, whatever mode the module is put in."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y) '
        "<float[2] s = {10,10}, float[2] b = {5,5}, float[2] m = {1,1}, float[2] v = {4,4}, "
        "float[2,2] A = {1,0, 0,1}, float half = {0.5}> "
        "{ n = BatchNormalization<epsilon=0.0>(x, s, b, m, v)  d = Dropout(n, half)  "
        "y = MatMul(d, A) }"
    )
    bridge = to_torch(onnx.parser.parse_model(text))
    bridge.module.train()
    image = np.array([[3, 1], [5, -1]], np.float32)
    for _ in range(2):
        np.testing.assert_allclose(_scores(bridge, image), [[15, 5], [25, -5]], rtol=1e-6)
    assert set(bridge.parameters) == {"s", "b", "A"}  # the statistics are no weights


def test_a_quantized_weight_cannot_be_changed() -> None:
    bridge = to_torch(build("weight_dequantized"))
    assert any("quantized" in note for note in bridge.notes)
    with torch.no_grad():
        bridge.parameters["bias"][0] += 1  # the bias is stored as floats
    images = _images("weight_dequantized")
    scores = run_onnx(bridge.write_back(), {"x": images})[0]
    np.testing.assert_allclose(scores, logits(PIXELS) + np.array([1, 0, 0]))
    with torch.no_grad():
        bridge.parameters["B"][0, 0] += 1
    with pytest.raises(
        WriteBackError, match="'B' changed, and the file holds it quantized"
    ) as info:
        bridge.write_back()
    assert "before quantization" in info.value.advice


def test_bounds_of_quantization_stay_when_the_rounding_goes() -> None:
    """Scale 0.5, zero point 0: from 0 to 127.5; 2.3 stays 2.3, where the file has 2.5."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,2] x) => (float[N,2] y) '
        "<float scale = {0.5}, uint8 zero = {0}, float[2,2] A = {1,0, 0,1}> "
        "{ a = MatMul(x, A)  q = QuantizeLinear(a, scale, zero)  f = Flatten(q)  "
        "d = DequantizeLinear(f, scale, zero)  y = MatMul(d, A) }"
    )
    image = np.array([[2.3, -4], [200, 7]], np.float32)
    bridge = to_torch(onnx.parser.parse_model(text), images=image)
    np.testing.assert_allclose(_scores(bridge, image), [[2.3, 0], [127.5, 7]], rtol=1e-6)
    np.testing.assert_allclose(
        run_onnx(bridge.source, {"x": image})[0], [[2.5, 0], [127.5, 7]], rtol=1e-6
    )
    # 0.2 of 127.5
    assert "differs from the file by 1.6e-03" in bridge.notes[0]


def test_hidden_tensors_can_be_asked_for() -> None:
    bridge = to_torch(build("softmax"), outputs=["h", "y"])
    assert bridge.outputs == ("h", "y")
    neurons, scores = bridge.module(torch.from_numpy(_images("softmax")))
    np.testing.assert_allclose(neurons.detach(), hidden(PIXELS))
    np.testing.assert_allclose(scores.detach(), logits(PIXELS), rtol=1e-6)
    with pytest.raises(TensorNotFoundError, match="no tensor named 'nowhere'"):
        to_torch(build("softmax"), outputs=["nowhere"])


def test_external_data_has_to_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(build_family("gemm head", 17), path, save_as_external_data=True, size_threshold=0)
    with pytest.raises(ExternalDataError, match="were not loaded"):
        to_torch(onnx.load(path, load_external_data=False))
    assert to_torch(onnx.load(path)).scope == "full"


def test_what_is_no_classifier_is_refused() -> None:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (float[N,2] a, float[N,2] b) => (float[N,2] y) { y = Add(a, b) }"
    )
    with pytest.raises(NotAClassifierError, match="one image input"):
        to_torch(onnx.parser.parse_model(text))


def _run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, onnx_soda, onnx_soda._bridge.bridge; print('torch' in sys.modules)"
    assert _run_python(code) == "False"


def test_without_torch_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import onnx; from onnx_soda._bridge.bridge import to_torch\n"
        "from onnx_soda._errors import MissingExtraError\n"
        "try: to_torch(onnx.ModelProto())\n"
        "except MissingExtraError as error: print(error.message, '|', error.advice)"
    )
    advice = 'In a checkout of onnx-soda: pip install ".[repair]"'
    assert _run_python(code) == f"repair needs torch, which is not installed | {advice}"
