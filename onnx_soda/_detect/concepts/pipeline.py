"""The concept pipeline as graphs of its own, and images as they look under a concept.

Most concepts need a step or two of the pipeline, and every step costs: at 224 x 224 all of them
together take longer than a small model. On the processor there is a graph for each set of steps, a
few nodes without weights, and its session is opened when a concept first needs it. All share the
memory that they work in. On CUDA, where the steps cost little and a session much, one graph has
them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda._data.preprocessing import Preprocessing
from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.families import Shape
from onnx_soda._detect.concepts.fields import (
    KERNEL_SIZE,
    STEPS,
    fields_of,
    identity_fields,
    steps_of,
)
from onnx_soda._model.inputs import ImageInput
from onnx_soda._model.parts import serialise
from onnx_soda._model.runtime import Batch, Session, pad_rows, runs_on_cpu
from onnx_soda._options import RuntimeOptions

# Keeps these names apart from those in the model.
PREFIX = "onnx_soda_"


class Wiring:
    """Makes nodes and constants, and remembers them in order.

    Args:
        part: Begins their names; two of one graph have different ones.
    """

    def __init__(self, part: str = "") -> None:
        self._part = PREFIX + part
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def op(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Add a node and return its output."""
        node = ir.node(kind, inputs, attributes=attributes)
        node.outputs[0].name = f"{self._part}{len(self.nodes)}_{kind}"
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, array: Any, dtype: Any = np.float32) -> ir.Value:
        """Add a constant."""
        name = f"{self._part}c{len(self.constants)}"
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
_CHANGED = PREFIX + "changed"
# Bytes of the images that one run changes on the processor. The steps go over the same numbers
# again and again; that few stay in its cache (measured: docs/performance.md).
_RUN_BYTES = 2**20


def _clip(wiring: Wiring, value: ir.Value, low: float) -> ir.Value:
    return wiring.op("Clip", value, wiring.constant(low), wiring.constant(1.0))


def _styled(wiring: Wiring, pixels: ir.Value, v: Mapping[str, ir.Value]) -> ir.Value:
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


def _filtered(wiring: Wiring, value: ir.Value, v: Mapping[str, ir.Value], shape: Shape) -> ir.Value:
    """Convolve each channel; the border is repeated, so that blurring does not darken it."""
    edges = wiring.constant([0, 0, _EDGE, _EDGE] * 2, np.int64)
    wider = wiring.op("Pad", value, edges, mode="edge")
    return wiring.op("Conv", wider, v["kernel"], group=shape[0])


def _masked(
    wiring: Wiring, changed: ir.Value, pixels: ir.Value, v: Mapping[str, ir.Value], shape: Shape
) -> ir.Value:
    """Change the image only where the mask is, and where the luminance switches it on."""
    parts = [v["mask"]] if "mask" in v else []
    if "slope" in v:
        even = wiring.constant(np.full((1, shape[0], 1, 1), 1 / shape[0]))
        weights = wiring.op("Mul", even, v["slope"])
        parts.append(wiring.op("Sigmoid", wiring.op("Conv", pixels, weights, v["bias"])))
    mask = wiring.op("Mul", *parts) if len(parts) > 1 else parts[0]
    change = wiring.op("Mul", mask, wiring.op("Sub", changed, pixels))
    return wiring.op("Add", pixels, change)


def wire_transform(
    wiring: Wiring, pixels: ir.Value, v: Mapping[str, ir.Value], shape: Shape
) -> ir.Value:
    """Wire those steps of the pipeline that `fields` describes which have inputs.

    Args:
        wiring: Takes the nodes.
        pixels: The images.
        v: Inputs of these steps, by name.
        shape: Channels, height and width.
    """
    value = _styled(wiring, pixels, v) if "style" in v else pixels
    if "mix" in v:
        value = wiring.op("Conv", value, v["mix"], v["offset"])
    if {"style", "mix", "gamma"} & v.keys():
        # The power's slope is infinite at 0; a level that no 8-bit image tells from 0 is not.
        value = _clip(wiring, value, 1e-5)
    for kind, name in (("Pow", "gamma"), ("Mul", "gain"), ("Add", "field")):
        if name in v:
            value = wiring.op(kind, value, v[name])
    if "kernel" in v:
        value = _filtered(wiring, value, v, shape)
    if {"mask", "slope"} & v.keys():
        value = _masked(wiring, value, pixels, v, shape)
    return _clip(wiring, value, 0.0) if {"gain", "field", "kernel"} & v.keys() else value


def wire_preprocessing(
    wiring: Wiring, pixels: ir.Value, preprocessing: Preprocessing, image: ImageInput, shape: Shape
) -> ir.Value:
    """Wire value = (pixel scale - mean) / std, the channel order, the layout and the type."""
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


@dataclass(frozen=True, eq=False)
class Form:
    """How images are handed on.

    Attributes:
        name: Of the tensor.
        shape: Of one image.
        dtype: Element type.
        wire: Brings pixels into this form.
        batch: Number of images that there has to be; None where any will do.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    wire: Callable[[Wiring, ir.Value], ir.Value]
    batch: int | None = None


def form_of(image: ImageInput, preprocessing: Preprocessing, shape: Shape) -> Form:
    """Return the form in which a model takes images.

    Args:
        image: Its input.
        preprocessing: How pixels become that.
        shape: Channels, height and width of the images.
    """
    channels, height, width = shape
    return Form(
        image.name,
        image.concrete_shape(1, height, width, channels)[1:],
        image.numpy_dtype(),
        lambda wiring, pixels: wire_preprocessing(wiring, pixels, preprocessing, image, shape),
        image.batch,
    )


def build_transform(shape: Shape, form: Form, steps: frozenset[str]) -> ir.Model:
    """Return some steps of the pipeline as a model from pixels to a form.

    Args:
        shape: Channels, height and width of the images.
        form: What they are brought into.
        steps: Which, of `STEPS`.
    """
    sizes = identity_fields(*shape).as_feeds("")
    inputs = {name: graph_input(name, sizes[name].shape) for name in fields_of(steps)}
    pixels, wiring = graph_input("pixels", ["images", *shape]), Wiring()
    changed = form.wire(wiring, wire_transform(wiring, pixels, inputs, shape))
    result = changed if wiring.nodes else wiring.op("Identity", changed)
    result.name, result.dtype = form.name, ir.DataType.from_numpy(form.dtype)
    result.shape = ir.Shape(["images", *form.shape])
    graph = ir.Graph(
        [pixels, *inputs.values()],
        [result],
        nodes=wiring.nodes,
        initializers=wiring.constants,
        opset_imports={"": _OPSET},
        name="concept",
    )
    return ir.Model(graph, ir_version=_IR_VERSION)


@dataclass(frozen=True, eq=False)
class Uploaded:
    """Images that lie on the device, ready to be changed.

    Attributes:
        runs: What one run changes: all images in their order, and then what fills the batch up.
        rows: Number of images without that.
    """

    runs: tuple[Batch, ...]
    rows: int


class Transform:
    """Changes images by concepts.

    Args:
        shape: Channels, height and width of the images.
        form: How they are handed on.
        options: How sessions run.
    """

    def __init__(self, shape: Shape, form: Form, options: RuntimeOptions) -> None:
        self._shape, self._form, self._options = shape, form, options
        self._on_cpu = runs_on_cpu(options)
        self._unchanged = identity_fields(*shape).as_feeds("")
        self._sessions: dict[frozenset[str], Session] = {}
        self._results: NDArray[Any] = np.empty((0, *form.shape), form.dtype)

    def upload(self, pixels: NDArray[np.float32]) -> Uploaded:
        """Put images on the device, in shape (images, channels, height, width), from 0 to 1."""
        padded = pad_rows(pixels, self._form.batch)
        session = self._session({})
        most = max(_RUN_BYTES // (pixels.itemsize * prod(self._shape)), 1)
        size = most if self._on_cpu else max(len(padded), 1)
        starts = range(0, len(padded), size)
        pieces = (padded[start : start + size] for start in starts)
        runs = tuple(session.upload({PREFIX + "pixels": piece}) for piece in pieces)
        return Uploaded(runs, len(pixels))

    def apply(self, images: Uploaded, fields: Mapping[str, NDArray[np.float32]]) -> Batch:
        """Return images as they look under a concept; on the processor until this is called again.

        Args:
            images: The images.
            fields: What the concept sets; nothing for the images as they are.
        """
        session = self._session(fields)
        extra = {
            name: fields.get(name.removeprefix(PREFIX), self._unchanged[name.removeprefix(PREFIX)])
            for name in session.model.inputs[1:]
        }
        if not self._on_cpu:
            (run,) = images.runs
            return Batch(session.leave(run, extra).values, images.rows)
        count = sum(run.rows for run in images.runs)
        if len(self._results) < count:
            self._results = np.empty((count, *self._form.shape), self._form.dtype)
        start = 0
        for run in images.runs:
            session.leave(run, extra, {self._form.name: self._results[start : start + run.rows]})
            start += run.rows
        whole = session.upload({self._form.name: self._results[:count]})
        return Batch(whole.values, images.rows)

    def _session(self, fields: Iterable[str]) -> Session:
        """Return the session with the steps that some fields are of, or with all."""
        steps = steps_of(fields) if self._on_cpu else frozenset(STEPS)
        if steps not in self._sessions:
            model = serialise(build_transform(self._shape, self._form, steps), None)
            self._sessions[steps] = Session(model, self._options, small=self._on_cpu)
        return self._sessions[steps]


def render_images(pixels: NDArray[np.float32], concept: Concept) -> NDArray[np.float32]:
    """Return images as they look under a concept, as the probe shows them to the model.

    Args:
        pixels: Shape (images, channels, height, width), from 0 to 1.
        concept: The concept.
    """
    shape: Shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
    form = Form(_CHANGED, shape, np.dtype(np.float32), lambda _, changed: changed)
    transform = Transform(shape, form, RuntimeOptions(provider="cpu"))
    changed = transform.apply(transform.upload(pixels), concept.feeds(shape))
    return np.array(changed.values[_CHANGED].numpy(), dtype=np.float32)
