"""Layers with weights: Gemm, convolution, normalisation, attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from onnx_soda._bridge.operators.registry import Attributes, Computed, converter, own_converter

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


@own_converter("Gemm", since=7)
def _gemm(node: Attributes) -> Computed:
    """Convert Gemm (https://onnx.ai/onnx/operators/onnx__Gemm.html).

    Revision 11 made C optional; 7 to 13 mean the same otherwise.
    """
    return partial(
        gemm,
        alpha=node.number("alpha", 1),
        beta=node.number("beta", 1),
        transpose_a=bool(node.integer("transA", 0)),
        transpose_b=bool(node.integer("transB", 0)),
    )


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float,
    beta: float,
    transpose_a: bool,
    transpose_b: bool,
) -> Tensor:
    """Return alpha * a' @ b' + beta * c, where a' and b' are transposed or not.

    Args:
        a: Shape (M, K), or (K, M) if transposed.
        b: Shape (K, N), or (N, K) if transposed.
        c: Broadcast to (M, N).
        alpha: Factor of the product.
        beta: Factor of `c`.
        transpose_a: Whether to transpose `a`.
        transpose_b: Whether to transpose `b`.
    """
    product = (a.t() if transpose_a else a) @ (b.t() if transpose_b else b)
    if alpha != 1:
        product = product * alpha
    if c is None:
        return product
    return product + (c if beta == 1 else c * beta)


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


@own_converter("BatchNormalization", since=7)
def _batch_norm(node: Attributes) -> Computed:
    """Convert BatchNormalization (https://onnx.ai/onnx/operators/onnx__BatchNormalization.html).

    Always in inference mode, also after `.train()`: a repair must not move the statistics. Only
    inside `batch_statistics` those of the batch count.
    Revisions 7 and 9 differ from 14 and 15 in how they say that they train.
    """
    if node.integer("training_mode", 0) or node.outputs > 1:
        raise NotImplementedError("training mode")
    if not node.integer("spatial", 1):
        raise NotImplementedError("statistics per place (spatial=0)")
    return partial(batch_norm, epsilon=node.number("epsilon", 1e-5))


# torch takes no 0 there, which a file may have.
_LEAST_EPSILON = 1e-12
_OF_THE_BATCH = ContextVar("of_the_batch", default=False)


@contextmanager
def batch_statistics() -> Iterator[None]:
    """Let BatchNorms normalise by the statistics of the batch; the given ones stay as they are."""
    before = _OF_THE_BATCH.set(True)
    try:
        yield
    finally:
        _OF_THE_BATCH.reset(before)


def batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float
) -> Tensor:
    """Normalise a tensor of shape (N, C, ...) by given statistics of shape (C,).

    No gradient goes to the statistics: they are estimates, not weights. (Exporters write equal
    tensors once, so an initializer may be both.)
    """
    if _OF_THE_BATCH.get():
        least = max(epsilon, _LEAST_EPSILON)
        return functional.batch_norm(x, None, None, scale, bias, training=True, eps=least)
    return functional.batch_norm(x, mean.detach(), variance.detach(), scale, bias, eps=epsilon)


@own_converter("InstanceNormalization", since=6)
def _instance_norm(node: Attributes) -> Computed:
    """Convert InstanceNormalization.

    https://onnx.ai/onnx/operators/onnx__InstanceNormalization.html; 22 adds a type.
    """
    epsilon = node.number("epsilon", 1e-5)
    return lambda x, scale, bias: functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@own_converter("LayerNormalization", since=17)
def _layer_norm(node: Attributes) -> Computed:
    """Convert LayerNormalization.

    https://onnx.ai/onnx/operators/onnx__LayerNormalization.html
    """
    if node.outputs > 1:
        raise NotImplementedError("mean and deviation as outputs")
    return partial(layer_norm, axis=node.integer("axis", -1), epsilon=node.number("epsilon", 1e-5))


def layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int, epsilon: float
) -> Tensor:
    """Normalise over the axes from `axis` on; scale and bias are broadcast to them."""
    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return functional.layer_norm(x, shape, scale, bias, epsilon)
    normal = functional.layer_norm(x, shape, eps=epsilon) * scale
    return normal if bias is None else normal + bias


@converter("RMSNormalization", 23)
def _rms_norm(node: Attributes) -> Computed:
    """Convert RMSNormalization (https://onnx.ai/onnx/operators/onnx__RMSNormalization.html)."""
    axis, epsilon = node.integer("axis", -1), node.number("epsilon", 1e-5)
    return lambda x, scale: functional.rms_norm(x, x.shape[axis:], eps=epsilon) * scale


@converter("GroupNormalization", 21)
def _group_norm(node: Attributes) -> Computed:
    """Convert GroupNormalization (https://onnx.ai/onnx/operators/onnx__GroupNormalization.html).

    Scale and bias have one entry per channel. Revision 18, with one per group, is deprecated and
    refused by onnx's checker.
    """
    groups, epsilon = node.integer("num_groups", 1), node.number("epsilon", 1e-5)
    return lambda x, scale, bias: functional.group_norm(x, groups, scale, bias, epsilon)


@converter("LpNormalization", 1, 22)
def _lp_norm(node: Attributes) -> Computed:
    """Convert LpNormalization (https://onnx.ai/onnx/operators/onnx__LpNormalization.html)."""
    axis, power = node.integer("axis", -1), node.integer("p", 2)

    def normalise(x: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(x, power, axis, keepdim=True)
        return x / norm.clamp_min(torch.finfo(x.dtype).tiny)  # a zero vector stays one

    return normalise


# Inputs are query, key, value and mask; those behind them are a cache of earlier tokens.
_PLAIN_INPUTS = 4


@converter("Attention", 23, 24, 25)
def _attention(node: Attributes) -> Computed:
    """Convert Attention (https://onnx.ai/onnx/operators/onnx__Attention.html).

    Without cache, soft cap and further outputs, which image classifiers do not have. Revision 24
    adds an external cache, 25 windows; without them they mean the same.
    """
    if node.inputs > _PLAIN_INPUTS or node.outputs > 1:
        raise NotImplementedError("a cache or the scores as output")
    if node.number("softcap", 0):
        raise NotImplementedError("softcap")
    if {node.integer(f"{side}_window_size", -1) for side in ("left", "right")} != {-1}:
        raise NotImplementedError("a window")
    return partial(
        attend,
        heads=(node.integer("q_num_heads", 0), node.integer("kv_num_heads", 0)),
        scale=node.bound("scale"),
        causal=bool(node.integer("is_causal", 0)),
    )


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    heads: tuple[int, int],
    scale: float | None,
    causal: bool,
) -> Tensor:
    """Return the attention of queries to keys and values.

    Args:
        query: Shape (N, heads, tokens, features), or (N, tokens, heads * features).
        key: As `query`; may have fewer heads, which then serve several of the query.
        value: As `key`.
        mask: Boolean (attend where true) or added to the scores; broadcast to them.
        heads: Number of heads of the query, and of key and value, where the tensors have rank 3.
        scale: Factor of the scores; 1 / sqrt(features) where None.
        causal: A token attends to earlier ones and itself only.
    """
    flat = query.dim() == 3
    if flat:
        query = _by_head(query, heads[0])
        key, value = _by_head(key, heads[1]), _by_head(value, heads[1])
    if causal and mask is not None:
        mask, causal = _and_causal(mask, query.shape[-2], key.shape[-2]), False
    result = functional.scaled_dot_product_attention(
        query, key, value, mask, is_causal=causal, scale=scale, enable_gqa=True
    )
    return result.transpose(1, 2).flatten(2) if flat else result


def _by_head(x: Tensor, heads: int) -> Tensor:
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _and_causal(mask: Tensor, queries: int, keys: int) -> Tensor:
    earlier = torch.ones(queries, keys, dtype=torch.bool, device=mask.device).tril()
    if mask.dtype == torch.bool:
        return mask & earlier
    return mask.masked_fill(~earlier, -torch.inf)
