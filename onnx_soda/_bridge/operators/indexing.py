"""ScatterElements and ScatterND, with their reductions."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from onnx_soda._bridge.operators.registry import Attributes, Computed, converter, own_converter

# Names of interpolations in GridSample: those of 16, those of 20 and newer, those of torch.
_GRID_MODES = {
    "bilinear": "bilinear",
    "linear": "bilinear",
    "nearest": "nearest",
    "bicubic": "bicubic",
    "cubic": "bicubic",
}


def flat_positions(indices: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Turn index tuples into positions in an array of this shape, laid out flat.

    Args:
        indices: Shape (..., len(sizes)); negative ones count from the end.
        sizes: Shape of the array.

    Returns:
        Shape (...).
    """
    positions = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=indices.device)
    for axis, size in enumerate(sizes):
        positions = positions * size + indices[..., axis].long() % size
    return positions


@own_converter("GatherND", since=11)
def _gather_nd(node: Attributes) -> Computed:
    """Convert GatherND (https://onnx.ai/onnx/operators/onnx__GatherND.html).

    Revision 12 adds batch_dims, which onnx2torch refuses; 13 adds a type.
    """
    batch_axes = node.integer("batch_dims", 0)

    def gather_nd(data: Tensor, indices: Tensor) -> Tensor:
        depth = indices.shape[-1]
        batch, rest = data.shape[:batch_axes], data.shape[batch_axes + depth :]
        indexed = data.shape[batch_axes : batch_axes + depth]
        flat = data.reshape(prod(batch), prod(indexed), *rest)
        places = flat_positions(indices, indexed).reshape(prod(batch), -1)
        rows = torch.arange(prod(batch), device=data.device).unsqueeze(1)
        return flat[rows, places].reshape(indices.shape[:-1] + rest)

    return gather_nd


@converter("OneHot", 9, 11)
def _one_hot(node: Attributes) -> Computed:
    """Convert OneHot (https://onnx.ai/onnx/operators/onnx__OneHot.html).

    Revision 11 allows negative indices; what lies outside gives no mark.
    """
    axis = node.integer("axis", -1)

    def one_hot(indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
        count = int(depth)
        classes = torch.arange(count, device=indices.device)
        wanted = torch.where(indices < 0, indices + count, indices).long()
        marked = wanted.unsqueeze(-1) == classes
        return torch.where(marked, values[1], values[0]).movedim(-1, axis)

    return one_hot


@converter("Trilu", 14)
def _trilu(node: Attributes) -> Computed:
    """Convert Trilu (https://onnx.ai/onnx/operators/onnx__Trilu.html)."""
    cut = torch.triu if node.integer("upper", 1) else torch.tril
    return lambda x, k=None: cut(x, 0 if k is None else int(k))


@own_converter("NonZero", since=9)
def _non_zero(_node: Attributes) -> Computed:
    """Convert NonZero (https://onnx.ai/onnx/operators/onnx__NonZero.html); 13 adds a type.

    One row per axis; onnx2torch gives one row per element found.
    """
    return lambda x: x.nonzero().t()


@converter("GridSample", 16, 20, 22)
def _grid_sample(node: Attributes) -> Computed:
    """Convert GridSample (https://onnx.ai/onnx/operators/onnx__GridSample.html).

    Revision 20 renames the modes and adds volumes; 22 adds a type.
    """
    mode = _GRID_MODES[node.text("mode", "linear")]
    padding, aligned = node.text("padding_mode", "zeros"), bool(node.integer("align_corners", 0))
    return lambda x, grid: functional.grid_sample(x, grid, mode, padding, aligned)


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
