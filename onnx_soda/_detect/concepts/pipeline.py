"""The concept pipeline as graph nodes, and images as they look under a concept.

Only operators whose form has not changed since opset 8 are used; older models are brought to a
newer one (`onnx_soda._model.graph`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda._data.preprocessing import Preprocessing
from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.families import Shape
from onnx_soda._detect.concepts.fields import KERNEL_SIZE
from onnx_soda._model.anatomy import Anatomy
from onnx_soda._model.parts import serialise
from onnx_soda._model.runtime import Session
from onnx_soda._options import RuntimeOptions

# Keeps these names apart from those in the model.
PREFIX = "onnx_soda_"


class Wiring:
    """Makes nodes and constants, and remembers them in order."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def op(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Add a node and return its output."""
        node = ir.node(kind, inputs, attributes=attributes)
        node.outputs[0].name = f"{PREFIX}{len(self.nodes)}_{kind}_{id(self):x}"
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, array: Any, dtype: Any = np.float32) -> ir.Value:
        """Add a constant."""
        name = f"{PREFIX}c{len(self.constants)}_{id(self):x}"
        numbers = np.asarray(array, dtype=dtype)
        tensor = ir.tensor(numbers, name=name)
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=name, type=kind, shape=ir.Shape(numbers.shape))
        value.const_value = tensor
        self.constants.append(value)
        return value


def graph_input(name: str, shape: Sequence[int | str]) -> ir.Value:
    """Return a float graph input."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    return ir.Value(name=PREFIX + name, type=kind, shape=ir.Shape(shape))


_EDGE = KERNEL_SIZE // 2
_OPSET, _IR_VERSION = 13, 8


def _clip(wiring: Wiring, value: ir.Value, low: float = 0.0) -> ir.Value:
    floor = wiring.op("Max", value, wiring.constant(low))
    return wiring.op("Min", floor, wiring.constant(1.0))


def _styled(wiring: Wiring, pixels: ir.Value, v: dict[str, ir.Value]) -> ir.Value:
    """Give each image a share of a donor's mean and deviation per channel."""
    mean = wiring.op("GlobalAveragePool", pixels)
    square = wiring.op("GlobalAveragePool", wiring.op("Mul", pixels, pixels))
    variance = wiring.op("Sub", square, wiring.op("Mul", mean, mean))
    # A flat image has no deviation to divide by.
    deviation = wiring.op("Sqrt", wiring.op("Max", variance, wiring.constant(1e-4)))
    # x + style ((x - mean) ratio + style_mean - x) = x slope + level: one pass over the pixels.
    ratio = wiring.op("Div", v["style_std"], deviation)
    one = wiring.constant(1.0)
    change = wiring.op("Mul", v["style"], wiring.op("Sub", ratio, one))
    slope = wiring.op("Add", change, one)
    moved = wiring.op("Sub", v["style_mean"], wiring.op("Mul", mean, ratio))
    level = wiring.op("Mul", v["style"], moved)
    return wiring.op("Add", wiring.op("Mul", pixels, slope), level)


def wire_transform(
    wiring: Wiring, pixels: ir.Value, v: dict[str, ir.Value], shape: Shape
) -> ir.Value:
    """Wire the pipeline that `fields` describes."""
    channels, height, width = shape
    mixed = wiring.op("Conv", _styled(wiring, pixels, v), v["mix"], v["offset"])
    # The power's slope is infinite at 0; a level that no 8-bit image tells from 0 is not.
    powered = wiring.op("Pow", _clip(wiring, mixed, 1e-5), v["gamma"])
    textured = wiring.op("Add", wiring.op("Mul", powered, v["gain"]), v["field"])
    for axis, size in ((2, height), (3, width)):
        # Repeats the border, so that blurring does not darken it. Pad's form changed at opset 11.
        places = np.clip(np.arange(-_EDGE, size + _EDGE), 0, size - 1)
        textured = wiring.op("Gather", textured, wiring.constant(places, np.int64), axis=axis)
    filtered = wiring.op("Conv", textured, v["kernel"], group=channels)
    average = wiring.constant(np.full((1, channels, 1, 1), 1 / channels))
    luminance = wiring.op("Conv", pixels, average)
    switch = wiring.op("Add", wiring.op("Mul", luminance, v["slope"]), v["bias"])
    mask = wiring.op("Mul", v["mask"], wiring.op("Sigmoid", switch))
    change = wiring.op("Mul", mask, wiring.op("Sub", filtered, pixels))
    return _clip(wiring, wiring.op("Add", pixels, change))


def wire_preprocessing(
    wiring: Wiring, pixels: ir.Value, preprocessing: Preprocessing, anatomy: Anatomy, shape: Shape
) -> ir.Value:
    """Wire value = (pixel scale - mean) / std, the channel order, the layout and the type."""
    image = anatomy.view.image
    if preprocessing.channel_order == "BGR":
        pixels = wiring.op("Gather", pixels, wiring.constant([2, 1, 0], np.int64), axis=1)
    std = np.reshape(preprocessing.std, (1, -1, 1, 1))
    mean = np.reshape(preprocessing.mean, (1, -1, 1, 1))
    scaled = wiring.op("Mul", pixels, wiring.constant(255 * preprocessing.scale / std))
    value = wiring.op("Sub", scaled, wiring.constant(mean / std))
    layout = preprocessing.layout or image.layout
    if layout in ("NHWC", "flat"):
        value = wiring.op("Transpose", value, perm=[0, 2, 3, 1])
    if layout in ("NHW", "flat", "flat-chw"):
        sizes = [-1, *shape[1:]] if layout == "NHW" else [-1, int(np.prod(shape))]
        value = wiring.op("Reshape", value, wiring.constant(sizes, np.int64))
    kind = ir.DataType.from_numpy(image.numpy_dtype())
    if kind == ir.DataType.UINT8:
        value = wiring.op("Floor", wiring.op("Add", value, wiring.constant(0.5)))
    return value if kind == ir.DataType.FLOAT else wiring.op("Cast", value, to=int(kind))


def render_images(pixels: NDArray[np.float32], concept: Concept) -> NDArray[np.float32]:
    """Return images as they look under a concept, as the probe shows them to the model.

    Args:
        pixels: Shape (images, channels, height, width), from 0 to 1.
        concept: The concept.
    """
    shape: Shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
    fields = concept.render(shape).as_feeds("")
    inputs = {name: graph_input(name, array.shape) for name, array in fields.items()}
    images, wiring = graph_input("pixels", ["images", *shape]), Wiring()
    changed = wire_transform(wiring, images, inputs, shape)
    changed.dtype, changed.shape = ir.DataType.FLOAT, ir.Shape(["images", *shape])
    graph = ir.Graph(
        [images, *inputs.values()],
        [changed],
        nodes=wiring.nodes,
        initializers=wiring.constants,
        opset_imports={"": _OPSET},
        name="concept",
    )
    model = serialise(ir.Model(graph, ir_version=_IR_VERSION), None)
    session = Session(model, RuntimeOptions(provider="cpu"))
    feeds = session.upload({PREFIX + "pixels": pixels})
    result = session.run(feeds, concept.render(shape).as_feeds(PREFIX))[0]
    return np.asarray(result, dtype=np.float32)
