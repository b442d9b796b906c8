"""Gemm, with its weights as inputs."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from onnx_soda.repair.operators.registry import Attributes, Computed, own_converter

__all__: list[str] = []


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
