"""What convolution and pooling share: windows that slide over the spatial axes of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch.nn import functional

from onnx_soda.repair.operators.registry import Attributes, Computed

__all__ = ["Pads", "Windows", "by_rank", "is_even", "read_windows", "torch_padding"]

# Numbers of spatial axes that torch convolves and pools over.
_RANKS = (1, 2, 3)
# Pairs of (begin, end), one per spatial axis.
Pads = list[tuple[int, int]]


@dataclass(frozen=True)
class Windows:
    """Attributes of a sliding window; each list has one entry per spatial axis, or is None.

    Attributes:
        kernel: Size; None where the weights tell it.
        strides: Step; 1 where None.
        dilations: Distance between the places of a window; 1 where None.
        pads: All begins, then all ends; 0 where None.
        auto_pad: "NOTSET", "VALID", "SAME_UPPER" or "SAME_LOWER".
    """

    kernel: list[int] | None
    strides: list[int] | None
    dilations: list[int] | None
    pads: list[int] | None
    auto_pad: str

    def steps(self, rank: int) -> list[int]:
        """Return the step along each of `rank` spatial axes."""
        return self.strides or [1] * rank

    def spreads(self, rank: int) -> list[int]:
        """Return the dilation along each of `rank` spatial axes."""
        return self.dilations or [1] * rank

    def padding(self, sizes: Sequence[int], kernel: Sequence[int]) -> Pads:
        """Return the padding of a tensor.

        Args:
            sizes: Its spatial sizes.
            kernel: Size of the window.
        """
        rank = len(sizes)
        if self.auto_pad == "VALID":
            return [(0, 0)] * rank
        if self.auto_pad == "NOTSET":
            pads = self.pads or [0] * (2 * rank)
            return list(zip(pads[:rank], pads[rank:], strict=True))
        steps, spreads = self.steps(rank), self.spreads(rank)
        totals = [
            max((-(-size // step) - 1) * step + (width - 1) * spread + 1 - size, 0)
            for size, width, step, spread in zip(sizes, kernel, steps, spreads, strict=True)
        ]
        pairs = [(total // 2, total - total // 2) for total in totals]
        return pairs if self.auto_pad == "SAME_UPPER" else [(end, begin) for begin, end in pairs]


def read_windows(node: Attributes) -> Windows:
    """Read the attributes that Conv, MaxPool, AveragePool, LpPool have in common.

    Raises:
        NotImplementedError: An unknown value of `auto_pad`.
    """
    auto_pad = node.text("auto_pad", "NOTSET")
    if auto_pad not in {"NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"}:
        raise NotImplementedError(f"auto_pad {auto_pad!r}")
    return Windows(
        node.integers("kernel_shape"),
        node.integers("strides"),
        node.integers("dilations"),
        node.integers("pads"),
        auto_pad,
    )


def by_rank(name: str, rank: int) -> Computed:
    """Return the function of torch.nn.functional with this name for a number of spatial axes.

    Raises:
        NotImplementedError: It has none for so many.
    """
    if rank not in _RANKS:
        raise NotImplementedError(f"{rank} spatial axes")
    function: Computed = getattr(functional, f"{name}{rank}d")
    return function


def is_even(pads: Pads) -> bool:
    """Tell whether begin and end are padded alike on every axis, as torch's operators want it."""
    return all(begin == end for begin, end in pads)


def torch_padding(pads: Pads) -> list[int]:
    """Return the padding in the order of torch.nn.functional.pad: from the last axis on."""
    return [size for pair in reversed(pads) for size in pair]
