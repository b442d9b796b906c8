"""Operators over the places of a feature map: pooling and Resize.

Resize: nearest, linear and cubic interpolation, one axis after the other.

onnx2torch hands Resize to torch's `interpolate`, which knows a few of the ways in which ONNX maps
places and warns of wrong results for the others. Here the places are computed as the operator's
page says. https://onnx.ai/onnx/operators/onnx__Resize.html
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from onnx_soda._bridge.operators.layers import (
    Pads,
    Windows,
    by_rank,
    is_even,
    read_windows,
    torch_padding,
)
from onnx_soda._bridge.operators.registry import Attributes, Computed, converter, own_converter


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
    lowest: float = -torch.inf if dtype.is_floating_point else torch.iinfo(dtype).min
    return lowest


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


# place, size before, size after, scale -> place in the tensor before
_TRANSFORMATIONS: dict[str, Callable[[Tensor, int, int, float], Tensor]] = {
    "half_pixel": lambda x, _before, _after, scale: (x + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda x, _before, after, scale: (
        (x + 0.5) / scale - 0.5 if after > 1 else torch.zeros_like(x)
    ),
    "asymmetric": lambda x, _before, _after, scale: x / scale,
    "align_corners": lambda x, before, after, _scale: (
        x * ((before - 1) / (after - 1)) if after > 1 else torch.zeros_like(x)
    ),
    # The centre stays where it is although the size after was rounded.
    "half_pixel_symmetric": lambda x, before, after, scale: (
        before / 2 * (1 - after / (scale * before)) + (x + 0.5) / scale - 0.5
    ),
}
_ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda x: (x - 0.5).ceil(),
    "round_prefer_ceil": lambda x: (x + 0.5).floor(),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


@dataclass(frozen=True)
class _Interpolation:
    """Attributes of a Resize node; named as on its page."""

    mode: str
    transformation: str
    nearest_mode: str
    cubic: float
    axes: tuple[int, ...] | None


@own_converter("Resize", since=10)
def _resize(node: Attributes) -> Computed:
    """Convert Resize.

    Revision 10 has scales only and no choice of places; 11 adds sizes and choices, 13 types, 18
    axes, antialiasing and policies for the aspect ratio, 19 "half_pixel_symmetric".
    """
    if node.inputs == 2:  # revision 10
        return _resize_10(node)
    found = _Interpolation(
        node.text("mode", "nearest"),
        node.text("coordinate_transformation_mode", "half_pixel"),
        node.text("nearest_mode", "round_prefer_floor"),
        node.number("cubic_coeff_a", -0.75),
        None if (axes := node.integers("axes")) is None else tuple(axes),
    )
    if found.transformation not in _TRANSFORMATIONS:
        raise NotImplementedError(f"coordinate_transformation_mode {found.transformation!r}")
    for name in ("antialias", "exclude_outside"):
        if node.integer(name, 0):
            raise NotImplementedError(name)
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotImplementedError("keep_aspect_ratio_policy")
    return lambda x, _roi=None, scales=None, sizes=None: resize(x, scales, sizes, found)


def _resize_10(node: Attributes) -> Computed:
    found = _Interpolation(node.text("mode", "nearest"), "asymmetric", "floor", 0, None)
    return lambda x, scales: resize(x, scales, None, found)


def resize(x: Tensor, scales: Tensor | None, sizes: Tensor | None, way: _Interpolation) -> Tensor:
    """Resize a tensor to the sizes, or by the scales, of the axes."""
    axes = way.axes if way.axes is not None else range(x.dim())
    by_size = sizes is not None and sizes.numel() > 0
    wanted = (sizes if by_size else scales).tolist()  # type: ignore[union-attr]
    for axis, target in zip(axes, wanted, strict=True):
        before = x.shape[axis]
        after = int(target) if by_size else int(before * target)
        scale = after / before if by_size else target
        if after != before or scale != 1:
            x = _along(x, axis, after, scale, way)
    return x


def _along(x: Tensor, axis: int, after: int, scale: float, way: _Interpolation) -> Tensor:
    before = x.shape[axis]
    # In double precision: which of two pixels is nearer must not depend on rounding.
    places = torch.arange(after, dtype=torch.float64, device=x.device)
    source = _TRANSFORMATIONS[way.transformation](places, before, after, scale)
    if way.mode == "nearest":
        return _pick(x, axis, _ROUNDINGS[way.nearest_mode](source))
    if way.mode == "linear":
        source = source.clamp(0, before - 1)
    low = source.floor()
    weights = _linear(source - low) if way.mode == "linear" else _cubic(source - low, way.cubic)
    first = low if way.mode == "linear" else low - 1
    shape = [-1 if index == axis % x.dim() else 1 for index in range(x.dim())]
    picked = [
        _pick(x, axis, first + offset) * weight.to(x.dtype).reshape(shape)
        for offset, weight in enumerate(weights)
    ]
    return torch.stack(picked).sum(0)


def _pick(x: Tensor, axis: int, places: Tensor) -> Tensor:
    return x.index_select(axis, places.long().clamp(0, x.shape[axis] - 1))


def _linear(share: Tensor) -> list[Tensor]:
    return [1 - share, share]


def _cubic(share: Tensor, a: float) -> list[Tensor]:
    """Return Keys' weights of the four neighbours (page of Resize, "cubic_coeff_a")."""
    near = partial(_polynomial, a + 2, -(a + 3), 0, 1)
    far = partial(_polynomial, a, -5 * a, 8 * a, -4 * a)
    return [far(share + 1), near(share), near(1 - share), far(2 - share)]


def _polynomial(cubic: float, square: float, linear: float, constant: float, x: Tensor) -> Tensor:
    return ((cubic * x + square) * x + linear) * x + constant
