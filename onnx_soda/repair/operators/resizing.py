"""Resize: nearest, linear and cubic interpolation, one axis after the other.

onnx2torch hands Resize to torch's `interpolate`, which knows a few of the ways in which ONNX maps
places and warns of wrong results for the others. Here the places are computed as the operator's
page says. https://onnx.ai/onnx/operators/onnx__Resize.html
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from onnx_soda.repair.operators.registry import Attributes, Computed, own_converter

__all__: list[str] = []

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


def resize(x: Tensor, scales: Tensor | None, sizes: Tensor | None, how: _Interpolation) -> Tensor:
    """Resize a tensor to the sizes, or by the scales, of the axes."""
    axes = how.axes if how.axes is not None else range(x.dim())
    by_size = sizes is not None and sizes.numel() > 0
    wanted = (sizes if by_size else scales).tolist()  # type: ignore[union-attr]
    for axis, target in zip(axes, wanted, strict=True):
        before = x.shape[axis]
        after = int(target) if by_size else int(before * target)
        scale = after / before if by_size else target
        if after != before or scale != 1:
            x = _along(x, axis, after, scale, how)
    return x


def _along(x: Tensor, axis: int, after: int, scale: float, how: _Interpolation) -> Tensor:
    before = x.shape[axis]
    # In double precision: which of two pixels is nearer must not depend on rounding.
    places = torch.arange(after, dtype=torch.float64, device=x.device)
    source = _TRANSFORMATIONS[how.transformation](places, before, after, scale)
    if how.mode == "nearest":
        return _pick(x, axis, _ROUNDINGS[how.nearest_mode](source))
    if how.mode == "linear":
        source = source.clamp(0, before - 1)
    low = source.floor()
    weights = _linear(source - low) if how.mode == "linear" else _cubic(source - low, how.cubic)
    first = low if how.mode == "linear" else low - 1
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
