"""Finds the image input of a graph and reads its layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import DTypeLike

from onnx_soda._errors import NotAClassifierError

SCANNED = "onnx-soda scans classifiers: one label per image (no detection, segmentation, text)."
"""What to say where something else is given."""
# Element types that images come in; strings are text.
_IMAGE_TYPES = {
    ir.DataType.FLOAT: np.float32,
    ir.DataType.FLOAT16: np.float16,
    ir.DataType.DOUBLE: np.float64,
    ir.DataType.UINT8: np.uint8,
}
_TOKEN_TYPES = (ir.DataType.INT64, ir.DataType.INT32)
# Grey and colour. Four channels (alpha, infrared) would need data that nobody keeps.
_CHANNELS = (1, 3)
# Stands in for a free height and width where only the rank of later tensors matters.
_NOMINAL_SIZE = 224


@dataclass(frozen=True)
class ImageInput:
    """The graph input that takes the images.

    Attributes:
        name: Name of the tensor.
        dtype: NumPy name of its element type.
        shape: Shape as declared: numbers, or names or None for free dimensions.
        layout: "NCHW", "NHWC", "NHW" (grey without a channel axis) or "flat" (N, features).
        batch: Number of images that the graph insists on; None where it takes any.
        height: Pixels; None where the graph takes any, or where the layout is flat.
        width: As height.
        channels: 1 or 3; None where it cannot be told (flat).
        features: Number of values per image where the layout is flat.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]
    layout: str
    batch: int | None
    height: int | None
    width: int | None
    channels: int | None
    features: int | None = None

    @property
    def free_size(self) -> bool:
        """Whether the graph takes images of any height, or of any width."""
        return self.layout != "flat" and (self.height is None or self.width is None)

    def concrete_shape(
        self,
        batch: int,
        height: int | None = None,
        width: int | None = None,
        channels: int | None = None,
    ) -> tuple[int, ...]:
        """Return the input's shape with its free dimensions filled in."""
        if self.layout == "flat":
            return (batch, self.features or 1)
        rows = self.height or height or _NOMINAL_SIZE
        columns = self.width or width or _NOMINAL_SIZE
        channels = self.channels or channels or 3
        return {
            "NCHW": (batch, channels, rows, columns),
            "NHWC": (batch, rows, columns, channels),
            "NHW": (batch, rows, columns),
        }[self.layout]

    def numpy_dtype(self) -> np.dtype[np.generic]:
        """Return the element type."""
        dtype: DTypeLike = self.dtype
        return np.dtype(dtype)


def find_image_input(graph: ir.Graph) -> ImageInput:
    """Find the input that takes the images and tell its layout.

    Raises:
        NotAClassifierError: No input, several inputs, or one that no image fits.
    """
    spare = unneeded_inputs(graph)
    inputs = [value for value in _without_value(graph) if value not in spare]
    if inputs and all(value.dtype in _TOKEN_TYPES for value in inputs):
        raise NotAClassifierError(
            f"the input {inputs[0].name!r} of type {inputs[0].dtype} takes no images: it seems "
            "to be a text model, which reads token ids",
            SCANNED,
        )
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs) or "none"
        raise NotAClassifierError(
            f"the model needs one image input and has {len(inputs)} inputs ({names})",
            "onnx-soda scans classifiers that take one image; export the model that way.",
        )
    value = inputs[0]
    if value.shape is None:
        raise NotAClassifierError(
            f"the input {value.name!r} does not say its shape, so its layout cannot be told",
            "Export the model with the shape of its input; free sizes may have names.",
        )
    if value.dtype not in _IMAGE_TYPES:
        kind = value.dtype.name if value.dtype else "unknown"
        raise NotAClassifierError(
            f"the input {value.name!r} of type {kind} takes no images",
            "onnx-soda scans image classifiers (float or uint8 pixels in).",
        )
    declared = tuple(_dimension(size) for size in value.shape)
    found = _read_layout(value, declared)
    return replace(found, dtype=np.dtype(_IMAGE_TYPES[value.dtype]).name)


def unneeded_inputs(graph: ir.Graph) -> tuple[ir.Value, ...]:
    """Return the inputs that no output is computed from, where others are left."""
    needed, stack = set[ir.Value](), list(graph.outputs)
    while stack:
        value = stack.pop()
        if value not in needed:
            needed.add(value)
            node = value.producer()
            stack.extend(inputs_of(node) if node is not None else ())
    inputs = _without_value(graph)
    spare = tuple(value for value in inputs if value not in needed)
    return spare if len(spare) < len(inputs) else ()


def _without_value(graph: ir.Graph) -> list[ir.Value]:
    """Return the inputs that have no value of their own: others are weights, or have a default."""
    return [value for value in graph.inputs if value.name not in graph.initializers]


def inputs_of(node: ir.Node) -> Iterator[ir.Value]:
    """Yield all tensors that a node reads, those that its subgraphs take from outside too."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from _captured(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                yield from _captured(graph)


def _captured(graph: ir.Graph) -> Iterator[ir.Value]:
    own = {*graph.inputs, *graph.initializers.values()}
    own.update(value for node in graph for value in node.outputs)
    for node in graph:
        yield from (value for value in inputs_of(node) if value not in own)
    yield from (value for value in graph.outputs if value not in own)


def _dimension(size: int | ir.SymbolicDim) -> int | str | None:
    return size if isinstance(size, int) else size.value


def _number(size: int | str | None) -> int | None:
    return size if isinstance(size, int) and size > 0 else None


def _read_layout(value: ir.Value, shape: tuple[int | str | None, ...]) -> ImageInput:
    name = value.name or ""
    sizes = [_number(size) for size in shape]
    if len(shape) == 4:
        layout = _four_axes(value, sizes)
        height, width = (sizes[2], sizes[3]) if layout == "NCHW" else (sizes[1], sizes[2])
        channels = sizes[1] if layout == "NCHW" else sizes[3]
        return ImageInput(name, "", shape, layout, sizes[0], height, width, channels)
    if len(shape) == 3:
        return ImageInput(name, "", shape, "NHW", sizes[0], sizes[1], sizes[2], 1)
    if len(shape) == 2 and sizes[1]:
        return ImageInput(name, "", shape, "flat", sizes[0], None, None, None, sizes[1])
    raise NotAClassifierError(
        f"the input {name!r} of shape {list(shape)} takes no images",
        "onnx-soda reads inputs of shape (N, C, H, W), (N, H, W, C), (N, H, W) or (N, features).",
    )


def _four_axes(value: ir.Value, sizes: list[int | None]) -> str:
    """Tell NCHW from NHWC: by a channel count of 1 or 3, else by the node that reads the image.

    ONNX convolutions take NCHW, so a graph fed with NHWC begins with a Transpose.
    """
    if sizes[1] in _CHANNELS:
        return "NCHW"
    if sizes[3] in _CHANNELS:
        return "NHWC"
    if sizes[1] is not None and sizes[3] is not None:
        raise NotAClassifierError(
            f"the input {value.name!r} of shape {sizes} has neither 1 nor 3 channels",
            "onnx-soda scans classifiers of grey and RGB images.",
        )
    for node, _ in value.uses():
        if node.op_type == "Transpose" and _ints(node, "perm") == [0, 3, 1, 2]:
            return "NHWC"
    return "NCHW"


def _ints(node: ir.Node, name: str) -> list[int] | None:
    attribute = node.attributes.get(name)
    if attribute is None or attribute.type != ir.AttributeType.INTS:
        return None
    return list(attribute.as_ints())
