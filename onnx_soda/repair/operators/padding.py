"""Pad, in all its modes, over any axes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from onnx_soda.repair.operators.registry import Attributes, Computed, own_converter
from onnx_soda.repair.operators.windows import Pads, torch_padding

__all__: list[str] = []

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
