"""Operators on numbers: elementwise, activations, reductions, DequantizeLinear.

Sums, means, extrema and norms over axes.

The axes are an attribute up to revision 13, an input from 18 on (ReduceSum: from 13). ReduceMax and
ReduceMin take booleans from 20 on; 28 narrows types. https://onnx.ai/onnx/operators/, at each
operator's own page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from onnx_soda._bridge.operators.registry import Attributes, Computed, converter, own_converter

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
    below = fixed_low if low is None else _number_of(low)
    above = fixed_high if high is None else _number_of(high)
    if not isinstance(below, Tensor) and not isinstance(above, Tensor):
        return x if below is None and above is None else x.clamp(below, above)
    if below is not None:
        x = x.clamp(min=below)
    return x if above is None else x.clamp(max=above)


def _number_of(bound: Tensor) -> Tensor | float:
    """Return a bound as a number where nothing computes it.

    torch's slope of a bound that is a tensor goes over the elements several times, and took more
    than half of the training of a MobileNet.
    """
    return bound if bound.requires_grad or bound.numel() != 1 else bound.item()


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


# Defaults of Selu, as its page writes them.
_SELU_ALPHA = 1.67326319217681884765625
_SELU_GAMMA = 1.05070102214813232421875


@converter("Gelu", 20)
def _gelu(node: Attributes) -> Computed:
    """Convert Gelu (https://onnx.ai/onnx/operators/onnx__Gelu.html)."""
    return partial(functional.gelu, approximate=node.text("approximate", "none"))


@converter("Mish", 18, 22)
def _mish(_node: Attributes) -> Computed:
    """Convert Mish (https://onnx.ai/onnx/operators/onnx__Mish.html)."""
    mish: Computed = functional.mish
    return mish


@converter("Swish", 24)
def _swish(node: Attributes) -> Computed:
    """Convert Swish (https://onnx.ai/onnx/operators/onnx__Swish.html)."""
    alpha = node.number("alpha", 1)
    return lambda x: x * torch.sigmoid(alpha * x)


@own_converter("PRelu", since=7)
def _prelu(_node: Attributes) -> Computed:
    """Convert PRelu (https://onnx.ai/onnx/operators/onnx__PRelu.html).

    Since revision 7 the slope is broadcast from the last axis on; 9 and 16 add types.
    """
    return lambda x, slope: torch.where(x < 0, x * slope, x)


@own_converter("Selu", since=6)
def _selu(node: Attributes) -> Computed:
    """Convert Selu (https://onnx.ai/onnx/operators/onnx__Selu.html); 22 adds a type."""
    alpha, gamma = node.number("alpha", _SELU_ALPHA), node.number("gamma", _SELU_GAMMA)
    return lambda x: gamma * functional.elu(x, alpha)


@converter("ThresholdedRelu", 10, 22)
def _thresholded_relu(node: Attributes) -> Computed:
    """Convert ThresholdedRelu (https://onnx.ai/onnx/operators/onnx__ThresholdedRelu.html)."""
    alpha = node.number("alpha", 1)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


@converter("Shrink", 9)
def _shrink(node: Attributes) -> Computed:
    """Convert Shrink (https://onnx.ai/onnx/operators/onnx__Shrink.html)."""
    bias, limit = node.number("bias", 0), node.number("lambd", 0.5)

    def shrink(x: Tensor) -> Tensor:
        outside = torch.where(x < -limit, x + bias, torch.zeros_like(x))
        return torch.where(x > limit, x - bias, outside)

    return shrink


@converter("Hardmax", 1, 11)
def _hardmax_of_rows(node: Attributes) -> Computed:
    """Convert Hardmax up to revision 11, which takes all axes from `axis` on as one."""
    axis = node.integer("axis", 1)
    return lambda x: hardmax(x.flatten(axis), -1).reshape(x.shape)


@converter("Hardmax", 13)
def _hardmax(node: Attributes) -> Computed:
    """Convert Hardmax-13 (https://onnx.ai/onnx/operators/onnx__Hardmax.html)."""
    return partial(hardmax, axis=node.integer("axis", -1))


def hardmax(x: Tensor, axis: int) -> Tensor:
    """Return 1 at the first maximum along an axis and 0 elsewhere."""
    places = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, places, 1)


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


@converter("DequantizeLinear", 10, 13, 19, 21, 23, 24, 25)
def _dequantize(node: Attributes) -> Computed:
    """Convert DequantizeLinear (https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html).

    Revision 13 adds scales per axis, 21 per block; 19 to 25 add types.
    """
    if node.integer("block_size", 0):
        raise NotImplementedError("scales per block")
    axis = node.integer("axis", 1)

    def dequantize(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        shape = [-1 if scale.dim() and i == axis % x.dim() else 1 for i in range(x.dim())]
        values = x.to(scale.dtype)
        if zero is not None:
            values = values - zero.to(scale.dtype).reshape(shape)
        return values * scale.reshape(shape)

    return dequantize
