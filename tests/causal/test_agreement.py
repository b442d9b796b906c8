"""On random nets the closed form, the batched way and brute force agree to 1e-5."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_soda._detect.soda.analysis import attribute
from onnx_soda._model.anatomy import dissect
from onnx_soda._model.load import load_model
from onnx_soda._model.parts import Body, Tail
from onnx_soda._options import AttributionMethod, Intervention, RuntimeOptions, ScanOptions
from onnx_soda._suspect import Observation, summarise
from tests.causal.brute_force import attribute_brute_force

CPU = RuntimeOptions(provider="cpu", threads=1, batch_size=7)
PIXELS = 6


def random_net(rng: np.random.Generator, channels: int, classes: int, tail: str) -> bytes:
    """A convolution, then a tail over its feature map or over its pooled channels."""
    weights = {
        "K": rng.standard_normal((channels, 1, 3, 3)),
        "A": rng.standard_normal((channels, classes)) / channels,
        "c": rng.standard_normal(classes),
    }
    nodes = [
        helper.make_node("Conv", ["x", "K"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["h"]),
    ]
    if tail == "affine":
        nodes.append(helper.make_node("Gemm", ["h", "A", "c"], ["y"]))
    else:
        nodes.append(helper.make_node("Gemm", ["h", "A", "c"], ["g"]))
        nodes.append(helper.make_node("Tanh", ["g"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, PIXELS, PIXELS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.integers(2, 12),
    classes=st.integers(2, 6),
    images=st.integers(1, 20),
    a=st.sampled_from([1.0, -1.0, 0.5, 3.0]),
    b=st.sampled_from([1.0, -2.0, 0.25]),
    layer=st.sampled_from(["h", "maps"]),
    tail=st.sampled_from(["affine", "tanh"]),
)
def test_three_ways_agree(
    seed: int, channels: int, classes: int, images: int, a: float, b: float, layer: str, tail: str
) -> None:
    rng = np.random.default_rng(seed)
    anatomy = dissect(load_model(random_net(rng, channels, classes, tail)), layer=layer)
    pixels = rng.standard_normal((images, 1, PIXELS, PIXELS)).astype(np.float32)
    labels = rng.integers(classes, size=images)
    head = Tail(anatomy, CPU)
    logits, activations, sides = Body(anatomy, CPU).observe(pixels)
    # In two blocks, as of many images: their means have to be weighted by the images in each.
    cut = int(rng.integers(images))
    pieces = [
        Observation(labels[part], logits[part], activations[part],
                    {name: side[part] for name, side in sides.items()})
        for part in (slice(0, cut), slice(cut, None)) if len(labels[part])
    ]  # fmt: skip
    seen = summarise(lambda: iter(pieces))
    assert seen.accuracy == (logits.argmax(axis=1) == labels).mean()

    ways: list[AttributionMethod] = ["batched"]
    if tail == "affine":
        ways.append("closed-form")
    intervention = Intervention(a, b)
    results = [
        attribute_brute_force(head, activations, labels, intervention, sides),
        *(
            attribute(head, seen, ScanOptions(attribution=w, intervention=intervention))
            for w in ways
        ),
    ]
    for result in results[1:]:
        assert result is not None
        assert results[0] is not None
        assert set(result.sources) == set(results[0].sources) == set(labels.tolist())
        for source in result.sources:
            expected = results[0].shift(source)
            tolerance = 1e-5 * max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(result.shift(source), expected, atol=tolerance)
