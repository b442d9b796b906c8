"""Pooling over windows and over whole feature maps."""

from __future__ import annotations

from functools import partial
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from onnx_soda.repair.operators.registry import (
    Attributes,
    Computed,
    converter,
    own_converter,
)
from onnx_soda.repair.operators.windows import (
    Pads,
    Windows,
    by_rank,
    is_even,
    read_windows,
    torch_padding,
)

__all__: list[str] = []


@own_converter("MaxPool", since=1)
def _max_pool(node: Attributes) -> Computed:
    """Convert MaxPool (https://onnx.ai/onnx/operators/onnx__MaxPool.html).

    Revision 8 adds the indices, 10 dilations and ceil_mode; 11, 12 and 22 mean the same as 10.
    """
    if node.outputs > 1:
        raise NotImplementedError("indices as second output")
    ceil = bool(node.integer("ceil_mode", 0))
    return partial(max_pool, windows=_pooling_windows(node), ceil=ceil)


def max_pool(x: Tensor, *, windows: Windows, ceil: bool) -> Tensor:
    """Return the maxima of the windows of a tensor of shape (N, C, *sizes)."""
    kernel = windows.kernel or []
    rank = len(kernel)
    pads = windows.padding(x.shape[2:], kernel)
    padding = _native_padding(pads, kernel)
    if padding is None:
        _refuse_ceiling(ceil)
        # Padding must never be the maximum.
        x = functional.pad(x, torch_padding(pads), value=_lowest(x.dtype))
        padding = [0] * rank
    result: Tensor = by_rank("max_pool", rank)(
        x, kernel, windows.steps(rank), padding, windows.spreads(rank), ceil_mode=ceil
    )
    return result


def _lowest(dtype: torch.dtype) -> float:
    return -torch.inf if dtype.is_floating_point else torch.iinfo(dtype).min


@own_converter("AveragePool", since=1)
def _average_pool(node: Attributes) -> Computed:
    """Convert AveragePool (https://onnx.ai/onnx/operators/onnx__AveragePool.html).

    Revision 7 adds count_include_pad, 10 ceil_mode, 19 dilations; 11 and 22 change nothing else.
    """
    return partial(
        average_pool,
        windows=_pooling_windows(node),
        ceil=bool(node.integer("ceil_mode", 0)),
        count_pads=bool(node.integer("count_include_pad", 0)),
    )


def average_pool(x: Tensor, *, windows: Windows, ceil: bool, count_pads: bool) -> Tensor:
    """Return the means of the windows of a tensor of shape (N, C, *sizes).

    `count_pads` says whether padding counts as zeros, or not at all.
    """
    kernel = windows.kernel or []
    pads = windows.padding(x.shape[2:], kernel)
    padding = _native_padding(pads, kernel)
    if padding is not None and set(windows.spreads(len(kernel))) == {1}:
        result: Tensor = by_rank("avg_pool", len(kernel))(
            x, kernel, windows.steps(len(kernel)), padding, ceil, count_pads
        )
        return result
    _refuse_ceiling(ceil)
    sums = window_sums(x, windows, pads)
    if count_pads:
        return sums / prod(kernel)
    return sums / window_sums(torch.ones_like(x[:1, :1]), windows, pads)


def window_sums(x: Tensor, windows: Windows, pads: Pads) -> Tensor:
    """Return the sums over the windows of a tensor of shape (N, C, *sizes), padded with zeros."""
    kernel = windows.kernel or []
    for axis, width in enumerate(kernel, 2):
        begin, end = pads[axis - 2]
        step, spread = windows.steps(len(kernel))[axis - 2], windows.spreads(len(kernel))[axis - 2]
        x = functional.pad(x, [0, 0] * (x.dim() - 1 - axis) + [begin, end])
        reach = (width - 1) * spread + 1
        x = x.unfold(axis, reach, step)[..., ::spread].sum(-1)
    return x


@converter("GlobalMaxPool", 1, 22)
def _global_max_pool(_node: Attributes) -> Computed:
    """Convert GlobalMaxPool (https://onnx.ai/onnx/operators/onnx__GlobalMaxPool.html)."""
    return lambda x: x.amax(dim=tuple(range(2, x.dim())), keepdim=True)


@own_converter("GlobalAveragePool", since=1)
def _global_average_pool(_node: Attributes) -> Computed:
    """Convert GlobalAveragePool (https://onnx.ai/onnx/operators/onnx__GlobalAveragePool.html).

    onnx2torch needs the rank of the input in the file; 22 adds a type.
    """
    return lambda x: x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


@converter("GlobalLpPool", 2, 22)
def _global_lp_pool(node: Attributes) -> Computed:
    """Convert GlobalLpPool (https://onnx.ai/onnx/operators/onnx__GlobalLpPool.html)."""
    power = node.integer("p", 2)
    return lambda x: torch.linalg.vector_norm(x, power, tuple(range(2, x.dim())), keepdim=True)


@converter("LpPool", 2, 11, 18, 22)
def _lp_pool(node: Attributes) -> Computed:
    """Convert LpPool (https://onnx.ai/onnx/operators/onnx__LpPool.html).

    Revision 18 adds dilations and ceil_mode; the others mean the same.
    """
    _refuse_ceiling(bool(node.integer("ceil_mode", 0)))
    return partial(lp_pool, windows=_pooling_windows(node), power=node.integer("p", 2))


def lp_pool(x: Tensor, *, windows: Windows, power: int) -> Tensor:
    """Return the p-norms of the windows of a tensor of shape (N, C, *sizes)."""
    pads = windows.padding(x.shape[2:], windows.kernel or [])
    sums = window_sums(x.abs() ** power, windows, pads)
    # The slope of a root is infinite at zero, where many windows are behind a ReLU.
    return sums.clamp_min(torch.finfo(x.dtype).tiny) ** (1 / power)


def _pooling_windows(node: Attributes) -> Windows:
    windows = read_windows(node)
    by_rank("max_pool", len(windows.kernel or ()))  # refuses what torch cannot pool over
    return windows


def _native_padding(pads: Pads, kernel: list[int]) -> list[int] | None:
    """Return the padding as torch's pooling takes it: even, at most half a window; else None."""
    fits = all(begin <= width // 2 for (begin, _), width in zip(pads, kernel, strict=True))
    return [begin for begin, _ in pads] if is_even(pads) and fits else None


def _refuse_ceiling(ceil: bool) -> None:
    """Refuse what would need to know which of the last windows begin in the padding."""
    if ceil:
        raise NotImplementedError("ceil_mode with uneven padding or dilations")
