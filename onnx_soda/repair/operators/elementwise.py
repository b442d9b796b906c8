"""Operators that work on each element: bounds, types, hyperbolic functions, dropout."""

from __future__ import annotations

from functools import partial

import torch
from onnx import TensorProto
from torch import Tensor

from onnx_soda.repair.operators.registry import (
    Attributes,
    Computed,
    converter,
    own_converter,
)

__all__: list[str] = []

_TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}
_HYPERBOLIC: dict[str, Computed] = {
    "Sinh": torch.sinh,
    "Cosh": torch.cosh,
    "Asinh": torch.asinh,
    "Acosh": torch.acosh,
    "Atanh": torch.atanh,
}


@own_converter("Clip", since=6)
def _clip(node: Attributes) -> Computed:
    """Convert Clip (https://onnx.ai/onnx/operators/onnx__Clip.html).

    The bounds are attributes in revision 6 and inputs from 11 on; 12 and 13 add types. onnx2torch
    takes constants only, and none but both.
    """
    return partial(clip, fixed_low=node.bound("min"), fixed_high=node.bound("max"))


def clip(
    x: Tensor,
    low: Tensor | None = None,
    high: Tensor | None = None,
    *,
    fixed_low: float | None,
    fixed_high: float | None,
) -> Tensor:
    """Bound the elements of a tensor; where no tensor gives a bound, the fixed one applies."""
    below = fixed_low if low is None else low
    above = fixed_high if high is None else high
    if below is not None:
        x = x.clamp(min=below)
    return x if above is None else x.clamp(max=above)


@own_converter("Cast", since=6)
def _cast(node: Attributes) -> Computed:
    """Convert Cast (https://onnx.ai/onnx/operators/onnx__Cast.html).

    From 19 on `saturate`, from 24 on `round_mode`: they only bear on 8-bit floats, which torch
    cannot compute with and which are refused.
    """
    wanted = node.integer("to", 0)
    if wanted not in _TYPES:
        raise NotImplementedError(f"a cast to {TensorProto.DataType.Name(wanted)}")
    dtype = _TYPES[wanted]
    return lambda x: x.to(dtype)


@converter("CastLike", 15, 19, 21, 23, 24, 25)
def _cast_like(_node: Attributes) -> Computed:
    """Convert CastLike (https://onnx.ai/onnx/operators/onnx__CastLike.html)."""
    return lambda x, like: x.to(like.dtype)


@own_converter("CumSum", since=11)
def _cum_sum(node: Attributes) -> Computed:
    """Convert CumSum (https://onnx.ai/onnx/operators/onnx__CumSum.html).

    onnx2torch takes `reverse` as set where it is not; 14 adds types.
    """
    return partial(
        cumulate,
        exclusive=bool(node.integer("exclusive", 0)),
        reverse=bool(node.integer("reverse", 0)),
    )


def cumulate(x: Tensor, axis: Tensor, *, exclusive: bool, reverse: bool) -> Tensor:
    """Sum up along an axis, from its end if `reverse`; `exclusive` leaves out the element."""
    dimension = int(axis)
    ordered = x.flip(dimension) if reverse else x
    sums = ordered.cumsum(dimension, dtype=x.dtype)
    if exclusive:
        sums = sums - ordered
    return sums.flip(dimension) if reverse else sums


@own_converter("Dropout", since=7)
def _dropout(node: Attributes) -> Computed:
    """Convert Dropout (https://onnx.ai/onnx/operators/onnx__Dropout.html): it does nothing.

    The ratio and, from 12 on, whether to train are inputs; 10, 13 and 22 add types.
    """
    with_mask = node.outputs > 1

    def keep(x: Tensor, _ratio: Tensor | None = None, training: Tensor | None = None) -> object:
        if training is not None and bool(training):
            raise NotImplementedError("training mode")
        return (x, torch.ones_like(x, dtype=torch.bool)) if with_mask else x

    return keep


def _hyperbolic(node: Attributes) -> Computed:
    """Convert a hyperbolic function; 22 adds types. https://onnx.ai/onnx/operators/."""
    return _HYPERBOLIC[node.operator]


for _operator in _HYPERBOLIC:
    converter(_operator, 9, 22)(_hyperbolic)
