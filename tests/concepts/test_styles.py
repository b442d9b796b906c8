"""Styles: what they are, which donors are chosen, and the probe's arithmetic against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_soda import load_dataset
from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.folds import group_by_fold
from onnx_soda._detect.concepts.layers import StyleLayer, find_style_layer, make_pooling
from onnx_soda._detect.concepts.pipeline import PREFIX, Wiring, graph_input
from onnx_soda._detect.concepts.probe import KEPT_BYTES, Probe, ProbeImages
from onnx_soda._detect.concepts.reference import (
    ReferenceHead,
    fit_reference_head,
    read_features,
)
from onnx_soda._detect.concepts.styles import StyleLibrary
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import extract_tail, serialise
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


def probe_of(
    net: onnx.ModelProto, layer: StyleLayer, room: int = KEPT_BYTES, suspect: Suspect | None = None
) -> Probe:
    """With a reference head on the layer that is restyled: it has to see the new style too."""
    pooling = make_pooling("middle", 1, (8, 3, 2, 2), grid=False)
    head = ReferenceHead(pooling, np.stack([WEIGHTS] * 2), np.zeros((2, 2)), (1.0, 1.0))
    images = ProbeImages(PIXELS, group_by_fold(LABELS, FOLD, 2), FOLD)
    return Probe(suspect or suspect_of(net), images, (head,), 2, layer, room)


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


# Bytes that the filters of the small net make of four images, as many as a batch has.
BATCH_BYTES = 4 * 3 * 2 * 2 * 4


@pytest.mark.parametrize(
    ("room", "kept"), [(2 * BATCH_BYTES, 2), (2 * BATCH_BYTES - 1, 0), (BATCH_BYTES - 1, 0)]
)
def test_the_first_half_is_run_once_for_all_styles_where_there_is_room(
    room: int, kept: int
) -> None:
    """Two batches of four images. Where only one fits, each is gone when its turn comes again.

    For each image the filters multiply 3 x 2 x 2 times 4 numbers, and Relu goes over the 12; the
    mean is 3 numbers, flattened 3, and 3 x 2 are multiplied for the classes: 60 and 12.
    """
    donors, suspect = library(), suspect_of(small_net())
    probe = probe_of(small_net(), donors.layer, room, suspect)
    probe.flows(None)
    assert suspect.meter.done == pytest.approx(8)
    first = [probe.flows(donors.take(donor, 0.6)) for donor in (2, 5)]
    each = 12 / 72 if kept else 1
    assert suspect.meter.done == pytest.approx(8 + 2 * 8 * each)
    # Whatever is asked in between, and however the images are grouped.
    darker = Concept("gamma", {"gamma": (2.0,)}, "everywhere", {})
    probe.flows(darker)
    again = probe.regrouped(group_by_fold(LABELS, FOLD, 2)).flows(donors.take(2, 0.6))
    np.testing.assert_array_equal(again, first[0])
    assert suspect.meter.done == pytest.approx(8 + 2 * 8 * each + 8 + 8 * each)
    unkept = probe_of(small_net(), donors.layer, 0)
    np.testing.assert_array_equal(unkept.flows(donors.take(5, 0.6)), first[1])


def net_with_a_way_round() -> onnx.ModelProto:
    """The same; the shape of the image is read behind "middle", and its mean added to class 0."""
    net = small_net()
    net.graph.node.remove(net.graph.node[3])
    net.graph.node[-1].output[0] = "scores"
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[n,1,4,4] image, float[n,3,1,1] mean, float[n,2] scores)
        => (float[n,3] flat, float[n,2] logits) {
            all = Shape(image)  first = Constant<value_ints=[0]>()  count = Gather(all, first)
            three = Constant<value_ints=[3]>()  size = Concat<axis=0>(count, three)
            flat = Reshape(mean, size)
            grey = ReduceMean<axes=[1, 2, 3], keepdims=0>(image)
            axis = Constant<value_ints=[1]>()  column = Unsqueeze(grey, axis)
            row = Constant<value_floats=[1.0, 0.0]>()  more = Mul(column, row)
            logits = Add(scores, more)
        }"""
    more = list(onnx.parser.parse_model(text).graph.node)
    (product,) = (node for node in net.graph.node if node.op_type == "MatMul")
    net.graph.node.remove(product)
    net.graph.node.extend([*more[:6], product, *more[6:]])
    onnx.checker.check_model(net)
    return net


def test_what_goes_round_the_layer_stays_as_it_is() -> None:
    net, donors = net_with_a_way_round(), library()
    probe = probe_of(net, donors.layer)
    for style in (donors.take(1, 0.6), donors.take(6, 1.0)):
        features = restyled(middle(PIXELS), style.style, style.strength).mean(axis=(2, 3))
        scores = features @ WEIGHTS
        scores[:, 0] += PIXELS.mean(axis=(1, 2, 3))
        expected = group_by_fold(LABELS, FOLD, 2).T @ softmax(scores)
        np.testing.assert_allclose(probe.flows(style)[0], expected, atol=1e-5)


FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.mark.parametrize("batch", [None, 7])
def test_styles_in_a_real_model_are_what_its_two_parts_say_one_after_the_other(
    batch: int | None,
) -> None:
    """The layer as the whole model computes it, restyled by NumPy, and on to logits and heads."""
    runtime = RuntimeOptions(provider="cpu", threads=1, batch_size=batch)
    options = ScanOptions(preprocess="unit", runtime=runtime)
    clean = load_dataset(FIXTURES / "digits-clean.h5")
    suspect = Suspect(load_model(FIXTURES / "digits-clean.onnx"), clean, options)
    rows = np.arange(0, len(clean.labels), 36)
    features = read_features(suspect, rows)
    assert features.style_layer is not None
    donors = StyleLibrary(features.style_layer, features.styles, suspect.pixels(rows))
    labels, fold = clean.labels[rows], np.arange(len(rows)) % 2
    heads = tuple(
        fit_reference_head(pooling, layer, labels, fold, 10)
        for pooling, layer in zip(features.poolings, features.layers, strict=True)
    )
    groups = group_by_fold(labels, fold, 10)
    images = ProbeImages(donors.pixels, groups, fold)
    probe = Probe(suspect, images, heads, 10, features.style_layer)

    view, layer = suspect.anatomy.view, features.style_layer.name
    names = [suspect.anatomy.logits.value.name, *(head.pooling.name for head in heads)]
    value = view.values[layer]
    body = suspect.body_with([layer])
    before = suspect.observe(rows, body).sides[layer]
    for style in (donors.take(3, 0.6), donors.take(8, 1.0)):
        after = restyled(before, style.style, style.strength).astype(np.float32)
        expected = []
        for number, name in enumerate(names):
            reached = after
            if name != layer:
                part = extract_tail(view, value, view.values[name])
                session = Session(serialise(part.model, None), runtime)
                (reached,) = session.run(session.upload({layer: after}))
            scores = reached
            if number:
                head = heads[number - 1]
                own = head.pooling.apply(reached)
                both = np.einsum("if,kfc->kic", own, head.weights) + head.biases[:, None]
                scores = both[1 - fold, np.arange(len(rows))]
            expected.append(groups.T @ softmax(scores))
        np.testing.assert_allclose(probe.flows(style), expected, atol=2e-5)


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
