"""Sums, means, extrema and norms over axes.

The axes are an attribute up to revision 13, an input from 18 on (ReduceSum: from 13). ReduceMax and
ReduceMin take booleans from 20 on; 28 narrows types. https://onnx.ai/onnx/operators/, at each
operator's own page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from onnx_soda.repair.operators.registry import Attributes, Computed, own_converter

__all__: list[str] = []

# A tensor, the axes, whether to keep them with size 1.
Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    # From the last axis on, so that those still to come keep their numbers.
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


_REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    # Its gradient at zero is zero, where that of a square root is no number.
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keepdim=keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceProd": _product,
    # ONNX sums have the type of their input, torch's of small integers are 64 bits wide.
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep, dtype=x.dtype),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keepdim=keep, dtype=x.dtype),
}


def _convert(node: Attributes) -> Computed:
    return partial(
        reduce,
        reduction=_REDUCTIONS[node.operator],
        fixed_axes=node.integers("axes"),
        keep=bool(node.integer("keepdims", 1)),
        none_is_noop=bool(node.integer("noop_with_empty_axes", 0)),
    )


for _operator in _REDUCTIONS:
    own_converter(_operator, since=1)(_convert)


def reduce(
    x: Tensor,
    axes: Tensor | None = None,
    *,
    reduction: Reduction,
    fixed_axes: Sequence[int] | None,
    keep: bool,
    none_is_noop: bool,
) -> Tensor:
    """Reduce a tensor over axes.

    Args:
        x: Any shape.
        axes: Axes to reduce, shape (count,); `fixed_axes` where None.
        reduction: What to do.
        fixed_axes: Axes where no tensor gives them.
        keep: Keep the axes, with size 1.
        none_is_noop: Without axes return the tensor itself; else reduce all.
    """
    chosen = axes.tolist() if axes is not None else list(fixed_axes or ())
    if chosen:
        return reduction(x, chosen, keep)
    return x if none_is_noop else reduction(x, list(range(x.dim())), keep)
