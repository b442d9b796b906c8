"""Conv and ConvTranspose, with their weights as inputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor
from torch.nn import functional

from onnx_soda.repair.operators.registry import Attributes, Computed, own_converter
from onnx_soda.repair.operators.windows import (
    Windows,
    by_rank,
    is_even,
    read_windows,
    torch_padding,
)

__all__: list[str] = []


@own_converter("Conv", since=1)
def _conv(node: Attributes) -> Computed:
    """Convert Conv (https://onnx.ai/onnx/operators/onnx__Conv.html).

    Revisions 1, 11 and 22 mean the same: 11 words the defaults, 22 adds a type.
    """
    return partial(convolve, windows=read_windows(node), group=node.integer("group", 1))


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, windows: Windows, group: int
) -> Tensor:
    """Convolve a tensor of shape (N, C, *sizes) with weights of shape (M, C / group, *kernel)."""
    rank = x.dim() - 2
    pads = windows.padding(x.shape[2:], weight.shape[2:])
    if is_even(pads):
        padding = [begin for begin, _ in pads]
    else:
        x, padding = functional.pad(x, torch_padding(pads)), [0] * rank
    result: Tensor = by_rank("conv", rank)(
        x, weight, bias, windows.steps(rank), padding, windows.spreads(rank), group
    )
    return result


@own_converter("ConvTranspose", since=1)
def _conv_transpose(node: Attributes) -> Computed:
    """Convert ConvTranspose (https://onnx.ai/onnx/operators/onnx__ConvTranspose.html).

    Revisions 1, 11 and 22 mean the same: 11 words the defaults, 22 adds a type.
    """
    if node.integers("output_shape") is not None:
        raise NotImplementedError("output_shape")
    windows = read_windows(node)
    if windows.auto_pad not in {"NOTSET", "VALID"}:
        raise NotImplementedError(f"auto_pad {windows.auto_pad!r}")
    return partial(
        convolve_transposed,
        windows=windows,
        group=node.integer("group", 1),
        extra=node.integers("output_padding"),
    )


def convolve_transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    windows: Windows,
    group: int,
    extra: Sequence[int] | None,
) -> Tensor:
    """Apply the transpose of a convolution.

    Args:
        x: Shape (N, C, *sizes).
        weight: Shape (C, M / group, *kernel).
        bias: Shape (M,).
        windows: Strides, dilations and what is cut off the result on each side.
        group: Number of groups of channels.
        extra: What is added to the end of each spatial axis; 0 where None.
    """
    rank = x.dim() - 2
    pads = windows.padding(x.shape[2:], weight.shape[2:])
    whole: Tensor = by_rank("conv_transpose", rank)(
        x, weight, bias, windows.steps(rank), 0, extra or 0, group, windows.spreads(rank)
    )
    return functional.pad(whole, [-size for size in torch_padding(pads)])
