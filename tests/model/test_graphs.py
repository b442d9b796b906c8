"""Graphs that need more than a look at the last node: residual paths, ensembles, quantization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from onnx_soda._errors import NotAClassifierError, TensorNotFoundError
from onnx_soda._model.anatomy import Anatomy, dissect
from onnx_soda._model.load import OnnxModel, load_model
from onnx_soda._model.parts import Body, SideInput, Tail, extract_tail
from onnx_soda._options import RuntimeOptions

CPU = RuntimeOptions(provider="cpu", threads=1)
W44 = "float[4,4] W = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}"
A43 = "float[4,3] A = {1,2,3, 4,5,6, 7,8,9, 1,0,1}"


def parse(
    body: str, weights: str, output: str = "float[N,3] y", image: str = "float[N,1,2,2] x"
) -> bytes:
    text = (
        '<ir_version: 8, opset_import: ["" : 17]>\n'
        f"g ({image}) => ({output}) <{weights}> {{ {body} }}"
    )
    return onnx.parser.parse_model(text).SerializeToString()


def dissected(*args: str, layer: str = "last", logits: str | None = None, **kw: str) -> Anatomy:
    return dissect(load_model(parse(*args, **kw)), layer, logits)


def test_two_averaged_heads_meet_in_the_tensor_they_share() -> None:
    """As DeiT's distilled pair of heads: logits = (h A + h B) / 2."""
    anatomy = dissected(
        "f = Flatten(x)  m = MatMul(f, W)  h = Relu(m)  a = MatMul(h, A)  b = MatMul(h, B)  "
        "s = Add(a, b)  y = Div(s, two)",
        f"{W44}, {A43}, float[4,3] B = {{1,0,0, 0,1,0, 0,0,1, 0,0,0}}, float two = {{2}}",
    )
    assert anatomy.layer.name == "h"
    assert "Several paths" in anatomy.notes[0]


def test_networks_that_share_no_layer_are_only_read() -> None:
    """The mean of two networks: each one's penultimate tensor is passed by on the other's path."""
    anatomy = dissected(
        "f = Flatten(x)  m = MatMul(f, W)  h = Relu(m)  a = MatMul(h, A)  "
        "n = MatMul(f, V)  k = Relu(n)  b = MatMul(k, A)  s = Add(a, b)  y = Div(s, two)",
        f"{W44}, {A43}, float[4,4] V = {{2,0,0,0, 0,2,0,0, 0,0,2,0, 0,0,0,2}}, float two = {{2}}",
    )
    assert [layer.name for layer in anatomy.candidates] == ["h", "m", "k", "n"]
    assert all(layer.only_read for layer in anatomy.candidates)
    assert anatomy.layer.name == "h"
    assert "another path" in anatomy.notes[0]
    # (1, 0, 0, 1) gives (1+1, 2+0, 3+1) by the one and twice that by the other.
    image = np.array([1, 0, 0, 1], dtype=np.float32).reshape(1, 1, 2, 2)
    np.testing.assert_allclose(Body(anatomy, CPU).logits(image), [[3, 3, 6]])


def test_a_mean_over_an_image_and_its_mirror_image_is_only_read() -> None:
    """One network, run on both: the same weights on two paths."""
    anatomy = dissected(
        "v = Slice(x, end, start, last, back)  f = Flatten(x)  g = Flatten(v)  "
        "m = MatMul(f, W)  h = Relu(m)  a = MatMul(h, A)  "
        "n = MatMul(g, W)  k = Relu(n)  b = MatMul(k, A)  y = Mean(a, b)",
        f"{W44}, {A43}, int64[1] end = {{-1}}, int64[1] start = {{-9}}, int64[1] last = {{3}}, "
        "int64[1] back = {-1}",
    )
    assert [layer.name for layer in anatomy.candidates] == ["h", "m", "k", "n"]
    assert anatomy.layer.only_read


def test_of_a_wide_and_a_deep_path_the_deep_one_is_read() -> None:
    """The wide path has no hidden layer: its only layer with weights reads the image."""
    anatomy = dissected(
        "f = Flatten(x)  m = MatMul(f, W)  h = Relu(m)  a = MatMul(h, A)  b = MatMul(f, A)  "
        "y = Add(a, b)",
        f"{W44}, {A43}",
    )
    assert [layer.name for layer in anatomy.candidates] == ["h", "m"]
    assert anatomy.layer.only_read


def test_hidden_layers_of_whole_numbers_are_only_read() -> None:
    """As in ONNX Runtime's QOperator format: floating point at both ends alone."""
    anatomy = dissected(
        "f = Flatten(x)  q = QuantizeLinear(f, one, zero)  "
        "h = QLinearMatMul(q, one, zero, W, one, zero, one, zero)  "
        "z = QLinearMatMul(h, one, zero, A, one, zero, one, zero)  "
        "y = DequantizeLinear(z, one, zero)",
        "uint8[4,4] W = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}, "
        "uint8[4,3] A = {1,2,3, 4,5,6, 7,8,9, 1,0,1}, float one = {1}, uint8 zero = {0}",
    )
    assert (anatomy.layer.name, anatomy.layer.only_read) == ("h", True)


def test_a_recurrent_layer_has_weights() -> None:
    """Rows of the image as steps: the layer is what the last of them leaves."""
    anatomy = dissected(
        "t = Transpose<perm = [1, 0, 2]>(x)  _, s = GRU<hidden_size = 1>(t, I, R)  "
        "h = Squeeze(s, first)  y = MatMul(h, A)",
        "float[1,3,2] I = {1,0, 0,1, 1,1}, float[1,3,1] R = {1,1,1}, float[1,3] A = {1,2,3}, "
        "int64[1] first = {0}",
        image="float[N,2,2] x",
    )
    assert anatomy.layer.name == "h"
    assert anatomy.layer.depth == 1


def own_operators(body: str, weights: str, output: str = "float[N,3] y") -> OnnxModel:
    text = (
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>\n'
        f"g (float[N,1,2,2] x) => ({output}) <{weights}> {{ {body} }}"
    )
    return load_model(onnx.parser.parse_model(text).SerializeToString())


@pytest.mark.parametrize(
    ("body", "weights", "layer", "shape"),
    [
        ('c = com.microsoft.FusedConv<activation = "Relu">(x, K)  g = GlobalAveragePool(c)  '
         "h = Flatten(g)  y = MatMul(h, B)",
         "float[2,1,1,1] K = {1,2}, float[2,3] B = {1,2,3, 4,5,6}", "h", (1, 2)),
        ('f = Flatten(x)  h = com.microsoft.FusedGemm<activation = "Relu">(f, W, zero)  '
         "y = MatMul(h, A)", f"{W44}, {A43}, float[4] zero = {{0,0,0,0}}", "h", (1, 4)),
        ("f = Flatten(x)  m = com.microsoft.FusedMatMul<transB = 1>(f, W)  "
         "h = com.microsoft.BiasGelu(m, zero)  y = com.microsoft.FusedMatMul(h, A)",
         f"{W44}, {A43}, float[4] zero = {{0,0,0,0}}", "h", (1, 4)),
        ("f = Flatten(x)  m = MatMul(f, W)  h = com.microsoft.QuickGelu(m)  y = MatMul(h, A)",
         f"{W44}, {A43}", "h", (1, 4)),
        ("f = Flatten(x)  t = Unsqueeze(f, one)  m = MatMul(t, W)  "
         "n = com.microsoft.SkipLayerNormalization(m, t, scale)  h = Squeeze(n, one)  "
         "y = MatMul(h, A)",
         f"{W44}, {A43}, float[4] scale = {{1,1,1,1}}, int64[1] one = {{1}}", "h", (1, 4)),
    ],
)  # fmt: skip
def test_behind_operators_of_onnx_runtime_shapes_are_known(
    body: str, weights: str, layer: str, shape: tuple[int, ...]
) -> None:
    anatomy = dissect(own_operators(body, weights))
    assert (anatomy.layer.name, anatomy.layer.shape) == (layer, shape)
    assert not anatomy.layer.only_read
    assert (anatomy.layer.depth, anatomy.logits.classes) == (1, 3)


def test_a_model_saved_after_all_optimizations_is_read(tmp_path: Path) -> None:
    """Its convolutions are of the domain com.microsoft.nchwc, in a layout that mixes channels."""
    rng = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(rng.normal(size=size).astype(np.float32), name)
        for name, size in (("J", (32, 3, 3, 3)), ("K", (64, 32, 3, 3)), ("B", (64, 5)))
    ]
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,5] y) '
        "{ c = Conv(x, J)  r = Relu(c)  d = Conv(r, K)  s = Relu(d)  p = ReduceMean"
        "<axes = [2, 3], keepdims = 0>(s)  y = MatMul(p, B) }"
    )
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(weights)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    saved = onnx.load(settings.optimized_model_filepath)
    if all(node.domain != "com.microsoft.nchwc" for node in saved.graph.node):
        pytest.skip("this processor has no blocked layout")
    plain, found = (dissect(load_model(one.SerializeToString())) for one in (model, saved))
    assert (found.layer.shape, found.layer.only_read) == ((1, 64), False)
    mixed = {value.name for value in found.view.blocked}
    assert mixed
    assert mixed.isdisjoint(layer.name for layer in found.candidates)
    images = rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    expected = Body(plain, CPU).logits(images)
    np.testing.assert_allclose(Body(found, CPU).logits(images), expected, rtol=1e-3, atol=1e-3)


def test_a_swish_behind_the_last_convolution_is_walked_through() -> None:
    """x * sigmoid(x) is two paths without weights: the layer before the convolution is meant."""
    anatomy = dissected(
        "r = Conv(x, J)  c = Conv(r, K)  s = Sigmoid(c)  w = Mul(c, s)  g = GlobalAveragePool(w)  "
        "y = Flatten(g)",
        "float[1,1,1,1] J = {2}, float[3,1,1,1] K = {1,2,3}",
    )
    assert anatomy.layer.name == "r"


@pytest.mark.parametrize(
    ("body", "neurons"),
    [
        # As PyTorch writes it: three channels first.
        ("c = Conv(x, K)  d = Relu(c)", 3),
        # As Keras on PyTorch writes it: back to channels last, and a residual sum there.
        ("c = Conv(x, K)  l = Transpose<perm = [0, 2, 3, 1]>(c)  r = Relu(l)  d = Add(r, l)", 3),
        # And to channels first again, for what comes.
        (
            "c = Conv(x, K)  l = Transpose<perm = [0, 2, 3, 1]>(c)  r = Relu(l)  "
            "d = Transpose<perm = [0, 3, 1, 2]>(r)",
            3,
        ),
    ],
)
def test_the_neurons_of_a_feature_map_are_its_channels(body: str, neurons: int) -> None:
    anatomy = dissected(
        f"{body}  f = Flatten(d)  h = MatMul(f, V)  g = Relu(h)  y = MatMul(g, A)",
        f"float[3,1,1,1] K = {{1,2,3}}, float[12,4] V = {{{', '.join(['1'] * 48)}}}, {A43}",
    )
    deep = next(layer for layer in anatomy.candidates if layer.role == "deep")
    assert deep.name == "d"
    assert deep.neurons == neurons


def test_dynamic_quantization_gives_the_floating_point_tensor_before_it() -> None:
    anatomy = dissected(
        "f = Flatten(x)  m = MatMul(f, W)  h = Relu(m)  q, s, z = DynamicQuantizeLinear(h)  "
        "i = MatMulInteger(q, A, z)  c = Cast<to=1>(i)  y = Mul(c, s)",
        f"{W44}, int8[4,3] A = {{1,2,3, 4,5,6, 7,8,9, 1,0,1}}",
    )
    assert anatomy.layer.name == "h"
    assert "quantized" in anatomy.notes[0]


def test_functions_are_inlined() -> None:
    """torch.onnx writes functions of the model's own; the layer is found inside one."""
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[N,1,2,2] x) => (float[N,3] y) <float[4,3] A = {1,2,3, 4,5,6, 7,8,9, 1,0,1}> {
      y = own.Classify(x, A)
    }
    <domain: "own", opset_import: ["" : 17]>
    Classify (image, weights) => (scores) {
      two = Constant<value = float[1,1,1,1] {2}>()  twice = Conv(image, two)
      hidden = Flatten(twice)  scores = MatMul(hidden, weights)
    }"""
    anatomy = dissect(load_model(onnx.parser.parse_model(text).SerializeToString()))
    assert anatomy.logits.value.name == "y"
    assert "hidden" in anatomy.layer.name
    image = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    np.testing.assert_allclose(Body(anatomy, CPU).logits(image), [[42, 42, 54]])


def test_cuts_leave_out_what_a_residual_path_goes_round() -> None:
    """f -> m -> r -> s = f + r: r can be bypassed, so it is no candidate layer; s is the last."""
    anatomy = dissected(
        "f = Flatten(x)  m = MatMul(f, W)  r = Relu(m)  s = Add(f, r)  y = MatMul(s, A)",
        f"{W44}, {A43}",
    )
    names = [layer.name for layer in anatomy.candidates]
    assert names == ["s"]


def test_a_layer_with_a_path_round_it_takes_that_path_as_a_side_input() -> None:
    anatomy = dissected(
        "f = Flatten(x)  m = MatMul(f, W)  r = Relu(m)  s = Add(f, r)  y = MatMul(s, A)",
        f"{W44}, {A43}",
        layer="r",
    )
    head = extract_tail(anatomy.view, anatomy.layer.value, anatomy.logits.value)
    assert head.sides == (SideInput("f", shape_only=False),)
    tail = Tail(anatomy, CPU)
    assert tail.needed == ("f",)
    image = np.array([1, -2, 3, -4], dtype=np.float32).reshape(1, 1, 2, 2)
    logits, layer, sides = Body(anatomy, CPU, tail.needed).observe(image)
    np.testing.assert_allclose(tail.logits(layer, sides), logits)


def test_a_reshape_by_the_image_shape_needs_only_a_shape() -> None:
    anatomy = dissected(
        "r = Relu(x)  all = Shape(x)  n = Slice(all, zero, one)  to = Concat<axis=0>(n, rest)  "
        "f = Reshape(r, to)  m = MatMul(f, W)  h = Relu(m)  y = MatMul(h, A)",
        f"{W44}, {A43}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] rest = {{-1}}",
        layer="r",
    )
    tail = Tail(anatomy, CPU)
    assert tail.graph.sides == (SideInput("x", shape_only=True),)
    assert tail.needed == ()
    maps = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    np.testing.assert_allclose(tail.logits(maps), Body(anatomy, CPU).logits(maps))


def test_a_branch_that_reads_from_outside_its_subgraph_counts_as_a_reader() -> None:
    """The If's branches use h without naming it as an input of the node."""
    then = helper.make_graph(
        [helper.make_node("MatMul", ["h", "A"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("MatMul", ["h", "B"], ["o"])],
        "other",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
    )
    weights = np.ones((4, 3), dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("Relu", ["f"], ["h"]),
            helper.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=other),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            onnx.numpy_helper.from_array(weights, "A"),
            onnx.numpy_helper.from_array(2 * weights, "B"),
            onnx.numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    anatomy = dissect(load_model(model.SerializeToString()), layer="h")
    image = np.ones((1, 1, 2, 2), dtype=np.float32)
    logits, layer, _ = Body(anatomy, CPU).observe(image)
    np.testing.assert_allclose(logits, [[4, 4, 4]])
    np.testing.assert_allclose(Tail(anatomy, CPU).logits(layer), logits)


@pytest.mark.parametrize(
    ("body", "weights", "output", "words"),
    [
        ("f = Flatten(x)  h = Relu(f)  y = MatMul(h, A)", "float[4,1] A = {1,2,3,4}",
         "float[N,1] y", "a single class"),
        ("f = Flatten(x)  h = Relu(f)  y = MatMul(h, A)", "float[4,0] A = {}", "float[N,0] y",
         "zero classes"),
        ("r = Relu(x)  y = Conv(r, K)", "float[3,1,1,1] K = {1,2,3}", "float[N,3,2,2] y",
         "not one score per class"),
        ("f = Flatten(x)  y = MatMul(f, A)", A43, "float[N,3] y", "no hidden layer"),
        ("f = Flatten(x)  a = MatMul(f, A)  n = Neg(f)  b = MatMul(n, A)  y = Add(a, b)", A43,
         "float[N,3] y", "no layer with weights comes before the last one"),
        ("y = Identity(A)", A43, "float[4,3] y", "depends on its input"),
    ],
)  # fmt: skip
def test_what_is_no_classifier_is_refused(body: str, weights: str, output: str, words: str) -> None:
    with pytest.raises(NotAClassifierError, match=words) as caught:
        dissected(body, weights, output)
    assert caught.value.advice


def test_a_regression_is_refused() -> None:
    graph = helper.make_graph(
        [
            helper.make_node(
                "LinearRegressor", ["x"], ["y"], domain="ai.onnx.ml", coefficients=[1.0] * 8,
                intercepts=[0.0, 0.0], targets=2,
            )
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    with pytest.raises(NotAClassifierError, match="LinearRegressor: a regression"):
        dissect(load_model(model.SerializeToString()))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("int64[N,4] x", "takes no images"),
        ("float[N,5,2,2] x", "neither 1 nor 3 channels"),
        ("float[N] x", "takes no images"),
    ],
)
def test_inputs_that_take_no_image_are_refused(image: str, words: str) -> None:
    with pytest.raises(NotAClassifierError, match=words):
        dissected("h = Identity(x)  y = Identity(h)", W44, "float y", image=image)


def test_two_inputs_that_the_scores_need_are_refused() -> None:
    with pytest.raises(NotAClassifierError, match="has 2 inputs"):
        dissected("h = Add(x, z)  y = Identity(h)", W44, image="float[N,4] x, float[N,4] z")


@pytest.mark.parametrize(
    ("layer", "logits", "words"),
    [
        ("nowhere", None, "no tensor named 'nowhere'"),
        ("A", None, "does not depend on the image"),
        ("y", None, "cannot be analysed"),
        ("last", "nowhere", "no tensor named 'nowhere'"),
        ("last", "x", "cannot be the logits"),
    ],
)
def test_names_that_cannot_serve_are_refused(layer: str, logits: str | None, words: str) -> None:
    with pytest.raises(TensorNotFoundError, match=words):
        dissected(
            "f = Flatten(x)  m = MatMul(f, W)  h = Relu(m)  y = MatMul(h, A)",
            f"{W44}, {A43}",
            layer=layer,
            logits=logits,
        )


FIELD = Path(__file__).parents[3] / "shared" / "field"


@pytest.mark.skipif(not FIELD.exists(), reason="shared/field is not there")
@pytest.mark.parametrize(
    ("file", "only_read", "neurons"),
    [("wide_and_deep", True, 64), ("ensemble_of_two", True, 64), ("ort_extended", False, 32)],
)
def test_files_from_the_field_have_layers(file: str, only_read: bool, neurons: int) -> None:
    anatomy = dissect(load_model(FIELD / f"{file}.onnx"))
    assert anatomy.logits.classes == 10
    assert (anatomy.layer.only_read, anatomy.layer.shape) == (only_read, (1, neurons))
