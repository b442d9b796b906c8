"""Whether there is room for what a graph computes, told from its shapes before anything is run."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx_ir as ir

from onnx_soda.model.inputs import ImageInput
from onnx_soda.model.load import OnnxModel
from onnx_soda.preflight.refusal import over_limit
from onnx_soda.preflight.sizes import check_elements, check_vectors

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
    """Refuse long whole-number vectors before shape inference follows their values.

    Args:
        graph: The graph, with the shapes that can be told without that.
        model: The file.

    Raises:
        UnsupportedModelError: They are too long altogether.
    """
    outputs = (value for node in graph for value in node.outputs)
    vectors = (
        value.shape[0]
        for value in (*graph.initializers.values(), *outputs)
        if value.dtype in _WHOLE_NUMBERS and value.shape is not None and value.shape.rank() == 1
    )
    total = sum(size for size in vectors if isinstance(size, int))
    check_vectors(total, model.file, model.limits)


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
