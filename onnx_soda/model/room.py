"""Whether there is room for what a graph computes, told from its shapes before anything is run."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx_ir as ir

from onnx_soda.model.inputs import ImageInput
from onnx_soda.model.load import OnnxModel
from onnx_soda.preflight.constants import FOLLOWED, MOST_VALUES, Constants
from onnx_soda.preflight.refusal import over_limit
from onnx_soda.preflight.sizes import MAKING, check_elements, check_nodes, check_vectors

__all__ = ["check_batch", "check_computed", "check_followed"]

_WHOLE_NUMBERS = (ir.DataType.INT64, ir.DataType.INT32)


def check_batch(image: ImageInput, model: OnnxModel) -> None:
    """Refuse a graph that insists on too many or too large images.

    Raises:
        UnsupportedModelError: It does.
    """
    batch = image.batch or 1
    if batch > model.limits.fixed_batch:
        raise over_limit(f"{model.file} takes {batch} images at once", model.limits.fixed_batch)
    elements = prod(image.concrete_shape(batch))
    check_elements(f"the input {image.name!r} of {model.file}", elements, model.limits, batch)


def check_followed(graph: ir.Graph, model: OnnxModel) -> None:
    """Refuse what shape inference would make too large by following values.

    It follows whole-number vectors element by element, from shapes through arithmetic to new sizes.

    Args:
        graph: The graph, with the shapes that can be told without that.
        model: The file.

    Raises:
        UnsupportedModelError: They are too long altogether.
    """
    outputs = (value for node in graph for value in node.outputs)
    values = (*graph.inputs, *graph.initializers.values(), *outputs)
    vectors = (
        value.shape[0]
        for value in values
        if value.dtype in _WHOLE_NUMBERS and value.shape is not None and value.shape.rank() == 1
    )
    total = sum(size for size in vectors if isinstance(size, int))
    check_vectors(total, model.file, model.limits)
    constants = Constants({v.name: _sizes(v.shape) for v in values if v.name and v.shape})
    small = (v.const_value for v in graph.initializers.values())
    constants.add_tensors(ir.to_proto(t) for t in small if t is not None and t.size <= MOST_VALUES)
    nodes = (ir.to_proto(node) for node in graph if node.op_type in FOLLOWED | MAKING)
    check_nodes(nodes, constants, model.file, model.limits)


def _sizes(shape: ir.Shape) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in shape)


def check_computed(
    shapes: Mapping[str, tuple[int | None, ...]], image: ImageInput, model: OnnxModel
) -> None:
    """Refuse a graph that computes too large tensors, or too many.

    Args:
        shapes: Shape of each tensor, for the smallest batch; unknown sizes count as 1.
        image: The image input; holds the size of that batch.
        model: The file.

    Raises:
        UnsupportedModelError: It does.
    """
    batch = image.batch or 1
    total = 0
    for name, shape in shapes.items():
        elements = prod(1 if size is None else size for size in shape)
        check_elements(f"the tensor {name[:80]!r} of {model.file}", elements, model.limits, batch)
        total += elements
    if total > model.limits.total_elements:
        raise over_limit(
            f"{model.file} computes {total} elements for {batch} images",
            model.limits.total_elements,
        )
