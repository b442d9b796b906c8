"""Operators that change shapes and leave the elements alone, and Pad."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from onnx_soda._bridge.operators.layers import Pads, torch_padding
from onnx_soda._bridge.operators.registry import Attributes, Computed, converter, own_converter


@own_converter("Reshape", since=5)
def _reshape(node: Attributes) -> Computed:
    """Convert Reshape (https://onnx.ai/onnx/operators/onnx__Reshape.html).

    Revision 14 adds allowzero, which onnx2torch refuses; 19 to 25 add types.
    """
    return partial(reshape, allow_zero=bool(node.integer("allowzero", 0)))


def reshape(x: Tensor, shape: Tensor, *, allow_zero: bool) -> Tensor:
    """Give a tensor the shape; 0 stands for the size of the same axis, or for 0 if allowed."""
    wanted = shape.tolist()
    if not allow_zero:
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


@own_converter("Flatten", since=1)
def _flatten(node: Attributes) -> Computed:
    """Convert Flatten (https://onnx.ai/onnx/operators/onnx__Flatten.html).

    Revision 11 allows negative axes; 9, 13 and 21 to 25 add types. onnx2torch fails for axis 0.
    """
    axis = node.integer("axis", 1)

    def flatten(x: Tensor) -> Tensor:
        split = axis % x.dim() if axis < 0 else axis
        return x.reshape(prod(x.shape[:split]), prod(x.shape[split:]))

    return flatten


@own_converter("Squeeze", since=1)
def _squeeze(node: Attributes) -> Computed:
    """Convert Squeeze (https://onnx.ai/onnx/operators/onnx__Squeeze.html).

    The axes are an input from revision 13 on; 21 to 25 add types.
    """
    fixed = node.integers("axes")

    def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = _as_list(axes, fixed)
        return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))

    return squeeze


@own_converter("Unsqueeze", since=1)
def _unsqueeze(node: Attributes) -> Computed:
    """Convert Unsqueeze (https://onnx.ai/onnx/operators/onnx__Unsqueeze.html).

    The axes are an input from revision 13 on; 21 to 25 add types. They number the axes of the
    result, which onnx2torch overlooks where they are negative.
    """
    fixed = node.integers("axes")

    def unsqueeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = _as_list(axes, fixed) or []
        rank = x.dim() + len(chosen)
        for axis in sorted(axis % rank for axis in chosen):
            x = x.unsqueeze(axis)
        return x

    return unsqueeze


def _as_list(given: Tensor | None, fixed: Sequence[int] | None) -> Sequence[int] | None:
    return fixed if given is None else given.tolist()


@own_converter("Split", since=2)
def _split(node: Attributes) -> Computed:
    """Convert Split (https://onnx.ai/onnx/operators/onnx__Split.html).

    The sizes are an input from revision 13 on. Without them the parts are equal, from 18 on
    rounded up and the last one smaller.
    """
    return partial(
        split, axis=node.integer("axis", 0), fixed=node.integers("split"), parts=node.outputs
    )


def split(
    x: Tensor, sizes: Tensor | None = None, *, axis: int, fixed: Sequence[int] | None, parts: int
) -> tuple[Tensor, ...] | Tensor:
    """Cut a tensor along an axis into parts of given or equal sizes."""
    chosen = _as_list(sizes, fixed)
    wanted = -(-x.shape[axis] // parts) if chosen is None else list(chosen)
    pieces = torch.split(x, wanted, axis)
    # A node with one output hands out a tensor, not a tuple.
    return pieces[0] if parts == 1 else pieces


@converter("Size", 1, 13, 19, 21, 23, 24, 25)
def _size(_node: Attributes) -> Computed:
    """Convert Size (https://onnx.ai/onnx/operators/onnx__Size.html)."""
    return lambda x: torch.tensor(x.numel(), device=x.device)


@own_converter("DepthToSpace", since=1)
def _depth_to_space(node: Attributes) -> Computed:
    """Convert DepthToSpace (https://onnx.ai/onnx/operators/onnx__DepthToSpace.html).

    onnx2torch has one of the two modes, and not the default.
    """
    block, mode = node.integer("blocksize", 1), node.text("mode", "DCR")

    def depth_to_space(x: Tensor) -> Tensor:
        images, channels, height, width = x.shape
        kept = channels // block**2
        if mode == "DCR":
            parts = x.reshape(images, block, block, kept, height, width)
            ordered = parts.permute(0, 3, 4, 1, 5, 2)
        else:
            parts = x.reshape(images, kept, block, block, height, width)
            ordered = parts.permute(0, 1, 4, 2, 5, 3)
        return ordered.reshape(images, kept, height * block, width * block)

    return depth_to_space


@converter("SpaceToDepth", 1, 13)
def _space_to_depth(node: Attributes) -> Computed:
    """Convert SpaceToDepth up to revision 13; from 28 on it has a mode.

    https://onnx.ai/onnx/operators/onnx__SpaceToDepth.html
    """
    block = node.integer("blocksize", 1)

    def space_to_depth(x: Tensor) -> Tensor:
        images, channels, height, width = x.shape
        parts = x.reshape(images, channels, height // block, block, width // block, block)
        ordered = parts.permute(0, 3, 5, 1, 2, 4)
        return ordered.reshape(images, channels * block**2, height // block, width // block)

    return space_to_depth


@own_converter("Expand", since=8)
def _expand(_node: Attributes) -> Computed:
    """Convert Expand (https://onnx.ai/onnx/operators/onnx__Expand.html).

    The shape is broadcast with that of the tensor; 13 adds a type. onnx2torch multiplies by ones.
    """

    def expand(x: Tensor, shape: Tensor) -> Tensor:
        # The larger of each pair of sizes, from the last axis on.
        wanted = shape.tolist()
        rank = max(len(wanted), x.dim())
        own, asked = ([1] * (rank - len(sizes)) + [*sizes] for sizes in (x.shape, wanted))
        return x.expand(
            [size if size != 1 else other for size, other in zip(own, asked, strict=True)]
        )

    return expand


@own_converter("Slice", since=1)
def _slice(node: Attributes) -> Computed:
    """Convert Slice (https://onnx.ai/onnx/operators/onnx__Slice.html).

    Starts, ends and axes are inputs from revision 10 on, which adds steps; 11 and 13 mean the same.
    onnx2torch indexes by lists, of which torch warns that it will understand them otherwise.
    """
    fixed = (node.integers("starts"), node.integers("ends"), node.integers("axes"), None)

    def slice_(x: Tensor, *given: Tensor | None) -> Tensor:
        inputs = [*given, *[None] * (len(fixed) - len(given))]
        starts, ends, axes, steps = map(_as_list, inputs, fixed)
        return cut_out(x, starts or (), ends or (), axes, steps)

    return slice_


def cut_out(
    x: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None,
    steps: Sequence[int] | None,
) -> Tensor:
    """Return a part of a tensor.

    Args:
        x: Any shape.
        starts: First place on each axis; negative ones count from the end.
        ends: Place behind the last one, likewise; numbers beyond the axis mean its end.
        axes: The axes; the first ones where None.
        steps: Distance of the places, 1 where None; negative ones go backwards.
    """
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step > 0:
            # Python's slices cut off numbers beyond the axis as ONNX does; torch takes no others.
            first, last, _ = slice(start, end, step).indices(x.shape[axis])
            x = x.narrow(axis, first, max(last - first, 0))
            x = x[(slice(None),) * (axis % x.dim()) + (slice(None, None, step),)]
        else:
            places = range(x.shape[axis])[slice(start, end, step)]
            x = x.index_select(axis, torch.tensor(list(places), device=x.device, dtype=torch.int64))
    return x


_MODES = ("constant", "edge", "reflect", "wrap")


@own_converter("Pad", since=2)
def _pad(node: Attributes) -> Computed:
    """Convert Pad (https://onnx.ai/onnx/operators/onnx__Pad.html).

    Sizes and value are inputs from revision 11 on, 18 adds the axes, 19 the mode "wrap"; 13 and
    21 to 25 add types.
    """
    mode = node.text("mode", "constant")
    if mode not in _MODES:
        raise NotImplementedError(f"mode {mode!r}")
    return partial(pad, mode=mode, fixed=node.integers("pads"), fill=node.number("value", 0))


def pad(
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
    *,
    mode: str,
    fixed: list[int] | None,
    fill: float,
) -> Tensor:
    """Pad a tensor, or cut it where a size is negative.

    Args:
        x: Any shape.
        pads: Begins, then ends, of the axes padded; `fixed` where None.
        value: What to fill in with mode "constant"; `fill` where None.
        axes: Axes padded; all where None.
        mode: "constant", "edge", "reflect" or "wrap".
        fixed: As `pads`.
        fill: As `value`.
    """
    pairs = _per_axis(x, pads.tolist() if pads is not None else fixed or [], axes)
    if mode == "constant":
        filling = fill if value is None or not value.numel() else value.item()
        return functional.pad(x, torch_padding(pairs), value=filling)
    for axis, (begin, end) in enumerate(pairs):
        if begin or end:
            places = torch.arange(-begin, x.shape[axis] + end, device=x.device)
            x = x.index_select(axis, _source(places, x.shape[axis], mode))
    return x


def _per_axis(x: Tensor, sizes: list[int], axes: Tensor | None) -> Pads:
    """Return (begin, end) of each axis of the tensor."""
    chosen = axes.tolist() if axes is not None else list(range(x.dim()))
    pairs = [(0, 0)] * x.dim()
    for position, axis in enumerate(chosen):
        pairs[axis] = (sizes[position], sizes[position + len(chosen)])
    return pairs


def _source(places: Tensor, size: int, mode: str) -> Tensor:
    """Return where the elements at some places, counted from the first one, are copied from."""
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    # Back and forth, without repeating the ends.
    turn = places.abs() % max(2 * (size - 1), 1)
    return torch.minimum(turn, 2 * (size - 1) - turn)
