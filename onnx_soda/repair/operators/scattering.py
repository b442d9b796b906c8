"""ScatterElements and ScatterND, with their reductions."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from onnx_soda.repair.operators.indexing import flat_positions
from onnx_soda.repair.operators.registry import (
    Attributes,
    Computed,
    converter,
    own_converter,
)

__all__: list[str] = []

# torch's names of the reductions.
_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@converter("ScatterElements", 11, 13, 16, 18)
def _scatter_elements(node: Attributes) -> Computed:
    """Convert ScatterElements (https://onnx.ai/onnx/operators/onnx__ScatterElements.html).

    Revision 16 adds the reductions add and mul, 18 max and min.
    """
    axis, reduction = node.integer("axis", 0), _read_reduction(node)

    def scatter_elements(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = indices.long() % data.shape[axis]
        return _write(data, axis, places, updates, reduction)

    return scatter_elements


@own_converter("ScatterND", since=11)
def _scatter_nd(node: Attributes) -> Computed:
    """Convert ScatterND (https://onnx.ai/onnx/operators/onnx__ScatterND.html).

    Revision 16 adds the reductions add and mul, 18 max and min; onnx2torch refuses them all.
    """
    reduction = _read_reduction(node)

    def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        depth = indices.shape[-1]
        rest = data.shape[depth:]
        rows = data.reshape(prod(data.shape[:depth]), -1)
        places = flat_positions(indices, data.shape[:depth]).reshape(-1, 1).expand(-1, prod(rest))
        values = updates.reshape(-1, prod(rest))
        return _write(rows, 0, places, values, reduction).reshape(data.shape)

    return scatter_nd


def _read_reduction(node: Attributes) -> str | None:
    """Return torch's name of the reduction; None where updates replace elements."""
    name = node.text("reduction", "none")
    if name not in {"none", *_REDUCTIONS}:
        raise NotImplementedError(f"reduction {name!r}")
    return _REDUCTIONS.get(name)


def _write(
    data: Tensor, axis: int, places: Tensor, updates: Tensor, reduction: str | None
) -> Tensor:
    if reduction is None:
        return torch.scatter(data, axis, places, updates)
    return torch.scatter_reduce(data, axis, places, updates, reduction)
