"""Styles: what they are, which donors are chosen, and the probe's arithmetic against NumPy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.folds import group_by_fold
from onnx_soda._detect.concepts.layers import StyleLayer, find_style_layer, make_pooling
from onnx_soda._detect.concepts.pipeline import PREFIX, Wiring, graph_input
from onnx_soda._detect.concepts.probe import Probe, ProbeImages
from onnx_soda._detect.concepts.reference import ReferenceHead
from onnx_soda._detect.concepts.styles import StyleLibrary
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import serialise
from onnx_soda._model.runtime import Session
from onnx_soda._options import RuntimeOptions, ScanOptions
from onnx_soda._suspect import Suspect

CPU = RuntimeOptions(provider="cpu", threads=1, batch_size=4)
RNG = np.random.default_rng(0)
PIXELS = RNG.random((8, 1, 4, 4)).astype(np.float32)
LABELS, FOLD = np.arange(8) % 2, np.arange(8) // 4
FILTERS = RNG.normal(size=(3, 1, 2, 2)).astype(np.float32)
WEIGHTS = RNG.normal(size=(3, 2)).astype(np.float32)


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def small_net(half: bool = False) -> onnx.ModelProto:
    """2 x 2 filters without overlap, Relu ("middle"), mean over places, two classes."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    cast = np.float16 if half else np.float32
    nodes = [
        helper.make_node("Conv", ["image", "filters"], ["conv"], strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["middle"]),
        helper.make_node("GlobalAveragePool", ["middle"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", kind, ["n", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", kind, ["n", 2])],
        [
            numpy_helper.from_array(FILTERS.astype(cast), "filters"),
            numpy_helper.from_array(WEIGHTS.astype(cast), "weights"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def middle(pixels: np.ndarray) -> np.ndarray:
    patches = pixels.reshape(len(pixels), 2, 2, 2, 2)  # image, row, in the row, column, in it
    return np.maximum(np.einsum("nyixj,cij->ncyx", patches, FILTERS[:, 0]), 0)


def restyled(values: np.ndarray, style: np.ndarray, strength: float) -> np.ndarray:
    mean = values.mean(axis=(2, 3), keepdims=True)
    spread = np.sqrt(values.var(axis=(2, 3), keepdims=True) + 1e-4)
    donor = (values - mean) / spread * style[1].reshape(1, -1, 1, 1) + style[0].reshape(1, -1, 1, 1)
    return values + strength * (donor - values)


def library() -> StyleLibrary:
    layer = StyleLayer("middle", axis=1, rank=4, channels=3)
    return StyleLibrary(layer, layer.measure(middle(PIXELS)), PIXELS)


def suspect_of(net: onnx.ModelProto) -> Suspect:
    options = ScanOptions(preprocess="unit", runtime=CPU)
    return Suspect(load_model(net.SerializeToString()), options=options)


def probe_of(net: onnx.ModelProto, layer: StyleLayer) -> Probe:
    """With a reference head on the layer that is restyled: it has to see the new style too."""
    pooling = make_pooling("middle", 1, (8, 3, 2, 2), grid=False)
    head = ReferenceHead(pooling, np.stack([WEIGHTS] * 2), np.zeros((2, 2)), (1.0, 1.0))
    images = ProbeImages(PIXELS, group_by_fold(LABELS, FOLD, 2), FOLD)
    return Probe(suspect_of(net), images, (head,), 2, layer)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("strength", [0.0, 0.6, 1.0])
def test_the_probe_gives_a_style_as_worked_out_with_numpy(half: bool, strength: float) -> None:
    donors = library()
    style = donors.take(2, strength)
    features = restyled(middle(PIXELS), style.style, strength).mean(axis=(2, 3))
    expected = group_by_fold(LABELS, FOLD, 2).T @ softmax(features @ WEIGHTS)
    flows = probe_of(small_net(half), donors.layer).flows(style)
    for reader in flows:  # model and reference head compute the same here
        np.testing.assert_allclose(reader, expected, atol=5e-3 if half else 1e-5)


def test_a_probe_with_a_style_layer_says_the_same_of_concepts_as_one_without() -> None:
    layer = library().layer
    images = ProbeImages(PIXELS, group_by_fold(LABELS, FOLD, 2), FOLD)
    plain = Probe(suspect_of(small_net()), images, (), 2)
    darker = Concept("gamma", {"gamma": (2.0,)}, "everywhere", {})
    for change in (None, darker):
        styled = probe_of(small_net(), layer).flows(change)[:1]
        np.testing.assert_allclose(styled, plain.flows(change), atol=1e-6)


def test_a_style_is_mean_and_deviation_of_each_channel() -> None:
    """Channels last: (1, 3) and (2, 2), means 2 and 2, deviations 1 and 0."""
    layer = StyleLayer("tokens", axis=2, rank=3, channels=2)
    values = np.array([[[1.0, 2.0], [3.0, 2.0]]])
    np.testing.assert_array_equal(layer.measure(values), [[[2, 2], [1, 0]]])


def test_a_full_style_is_the_donors_own_whatever_the_axis_of_channels() -> None:
    layer = StyleLayer("tokens", axis=2, rank=3, channels=3)
    values, wiring, inputs = graph_input("tokens", ["n", 5, 3]), Wiring(), layer.inputs()
    result = layer.wire(wiring, values, inputs)
    result.dtype, result.shape = ir.DataType.FLOAT, ir.Shape(["n", 5, 3])
    graph = ir.Graph(
        [values, *inputs.values()],
        [result],
        nodes=wiring.nodes,
        initializers=wiring.constants,
        opset_imports={"": 17},
        name="style",
    )
    session = Session(serialise(ir.Model(graph, ir_version=8), None), CPU)
    tokens = RNG.normal(size=(4, 5, 3)).astype(np.float32)
    style = np.array([[1, 2, 3], [0.5, 1, 2]], np.float32)
    feeds = {PREFIX + name: array for name, array in layer.feeds(style, 1.0).items()}
    batch = session.upload({PREFIX + "tokens": tokens})
    styled = np.asarray(session.run(batch, feeds)[0])
    assert styled.shape == tokens.shape
    np.testing.assert_allclose(layer.measure(styled), np.stack([style] * 4), atol=1e-2)


def test_the_earliest_layer_with_several_places_has_the_style() -> None:
    shapes = [(8, 10), (8, 6, 4, 4), (8, 5, 1, 1)]
    names = ("last", "deep", "middle")
    poolings = [make_pooling(n, 1, s, grid=False) for n, s in zip(names, shapes, strict=True)]
    assert find_style_layer(poolings, shapes) == StyleLayer("deep", 1, 4, 6)
    assert find_style_layer(poolings[:1], shapes[:1]) is None


def test_donors_are_drawn_each_once() -> None:
    assert sorted(library().donors(99, RNG)) == list(range(8))
    assert len(library().donors(3, RNG)) == 3


def test_variations_change_the_donor_or_the_strength_within_bounds() -> None:
    donors = library()
    start = donors.take(0, 0.6)
    rng = np.random.default_rng(0)
    made = [donors.vary(start, (), turn % 2 == 1, 5.0, rng) for turn in range(40)]
    for style in made[::2]:
        assert style.donor != 0
        assert style.strength == start.strength
    for style in made[1::2]:
        assert style.donor == 0
        assert 0.4 <= style.strength <= 1.0
    assert len({style.strength for style in made}) > 5
