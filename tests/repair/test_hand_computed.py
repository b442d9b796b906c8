"""Operators whose results were worked out by hand, where revisions or libraries differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.repair.helpers import Arrays, in_onnxruntime, in_torch

ROW = [[[1.0, 2.0, 3.0]]]  # one image, one channel, three places
SQUARE = [[[[1.0, 2.0], [3.0, 4.0]]]]


def case(name: str, nodes: str, opset: int, x: Any, wanted: Any, **constants: Any) -> Any:
    return pytest.param(nodes, opset, {"x": x}, constants, wanted, id=f"{name}-{opset}")


CASES = [
    # the window over the padding alone, then over 1 2, then 2 3
    case("pads do not count", "y = AveragePool<kernel_shape=[2], pads=[1,0]>(x)", 11, ROW,
         [[[1.0, 1.5, 2.5]]]),
    case("pads count as zeros",
         "y = AveragePool<kernel_shape=[2], pads=[1,0], count_include_pad=1>(x)", 11, ROW,
         [[[0.5, 1.5, 2.5]]]),
    # places 0 and 2
    case("dilated average", "y = AveragePool<kernel_shape=[2], dilations=[2]>(x)", 19, ROW,
         [[[2.0]]]),
    # padding is less than any number, not zero
    case("uneven pads of a maximum", "y = MaxPool<kernel_shape=[2], pads=[1,0]>(x)", 12,
         [[[-1.0, -2.0, -3.0]]], [[[-1.0, -1.0, -2.0]]]),
    # size 3, step 2: two windows of 2, so one place is missing: at the end, or at the beginning
    case("SAME_UPPER", 'y = MaxPool<kernel_shape=[2], strides=[2], auto_pad="SAME_UPPER">(x)', 12,
         ROW, [[[2.0, 3.0]]]),
    case("SAME_LOWER", 'y = MaxPool<kernel_shape=[2], strides=[2], auto_pad="SAME_LOWER">(x)', 12,
         ROW, [[[1.0, 3.0]]]),
    # axes 2 and 3: (1 + 2 + 3 + 4) / 4
    case("axes as attribute", "y = ReduceMean<axes=[2,3], keepdims=0>(x)", 17, SQUARE, [[2.5]]),
    case("axes as input", "y = ReduceMean<keepdims=0>(x, axes)", 18, SQUARE, [[2.5]], axes=[2, 3]),
    case("no axes: all", "y = ReduceMean<keepdims=0>(x)", 18, SQUARE, 2.5),
    case("no axes: none", "y = ReduceSum<noop_with_empty_axes=1>(x)", 18, SQUARE, SQUARE),
    case("product over two axes", "y = ReduceProd<keepdims=0>(x, axes)", 18, SQUARE, [[24.0]],
         axes=[-1, 2]),
    # five into two: three and two
    case("rounded up", "a, b = Split<num_outputs=2>(x)\ny = Identity(b)", 18,
         [1.0, 2.0, 3.0, 4.0, 5.0], [4.0, 5.0]),
    # an output that nobody reads still counts
    case("the first of three", "a, b, c = Split(x)\ny = Identity(a)", 13, np.arange(6.0),
         [0.0, 1.0]),
    case("the mask that nobody reads", "d, mask = Dropout(x)\ny = Identity(d)", 13, ROW, ROW),
    case("indices that nobody reads", "m, at = MaxPool<kernel_shape=[3]>(x)\ny = Identity(m)", 12,
         ROW, [[[3.0]]]),
    # the axes number those of the result (1, 2, 1), not of x
    case("negative axes", "y = Unsqueeze(x, axes)", 13, [1.0, 2.0], [[[1.0], [2.0]]], axes=[-1, 0]),
    case("two negative axes", "y = Unsqueeze(x, axes)", 13, [1.0, 2.0], [[[1.0]], [[2.0]]],
         axes=[-2, -1]),
    case("axis 0", "y = Flatten<axis=0>(x)", 13, SQUARE, [[1.0, 2.0, 3.0, 4.0]]),
    # 0 keeps an axis unless it is allowed to mean none
    case("zero keeps", "y = Reshape(x, to)", 14, np.ones((2, 3)), np.ones((2, 3)), to=[0, -1]),
    case("zero is zero", "y = Reshape<allowzero=1>(x, to)", 14, np.ones((0, 3)), np.ones((3, 0)),
         to=[3, 0]),
    case("sums", "y = CumSum(x, axis)", 14, [1.0, 2.0, 3.0], [1.0, 3.0, 6.0], axis=0),
    case("sums from the end, without itself", "y = CumSum<exclusive=1, reverse=1>(x, axis)", 14,
         [1.0, 2.0, 3.0], [5.0, 3.0, 0.0], axis=0),
    # both channels are one group: mean 2, variance 1; each channel has its scale
    case("scale per channel", "y = GroupNormalization<num_groups=1, epsilon=0.0>(x, s, b)", 21,
         [[[1.0], [3.0]]], [[[-10.0], [105.0]]], s=[10.0, 100.0], b=[0.0, 5.0]),
    # (3 - 1) / sqrt(4) * 10 + 5
    case("statistics given", "y = BatchNormalization<epsilon=0.0>(x, s, b, m, v)", 15, [[[3.0]]],
         [[[15.0]]], s=[10.0], b=[5.0], m=[1.0], v=[4.0]),
    case("one scale for all features", "y = LayerNormalization<epsilon=0.0>(x, s)", 17,
         [[1.0, 3.0]], [[-2.0, 2.0]], s=[2.0]),
    # root of (9 + 16) / 2
    case("root mean square", "y = RMSNormalization<epsilon=0.0>(x, s)", 23, [[3.0, 4.0]],
         [[3 / 12.5**0.5, 8 / 12.5**0.5]], s=[1.0, 2.0]),
    case("zero vector", "y = LpNormalization(x)", 22, [[3.0, 4.0], [0.0, 0.0]],
         [[0.6, 0.8], [0.0, 0.0]]),
    case("reflect", 'y = Pad<mode="reflect">(x, pads)', 18, [1.0, 2.0, 3.0],
         [3.0, 2.0, 1.0, 2.0, 3.0, 2.0], pads=[2, 1]),
    case("wrap", 'y = Pad<mode="wrap">(x, pads)', 19, [1.0, 2.0, 3.0],
         [3.0, 1.0, 2.0, 3.0, 1.0, 2.0], pads=[1, 2]),
    case("some axes, and less than nothing", "y = Pad(x, pads, five, axes)", 18,
         [[1.0, 2.0], [3.0, 4.0]], [[2.0, 5.0], [4.0, 5.0]], pads=[-1, 1], five=5.0, axes=[-1]),
    # places -0.25 0.25 0.75 1.25, the outer ones moved in
    case("half pixels", 'y = Resize<mode="linear">(x, , scales)', 19, [[[1.0, 2.0]]],
         [[[1.0, 1.25, 1.75, 2.0]]], scales=[1.0, 1.0, 2.0]),
    # places 0 1/3 2/3 1
    case("corners", 'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">'
         "(x, , scales)", 19, [[[0.0, 3.0]]], [[[0.0, 1.0, 2.0, 3.0]]], scales=[1.0, 1.0, 2.0]),
    # place 0.5 lies between the two: the lower one, or the upper one
    case("prefer floor", "y = Resize(x, , scales)", 13, [[[1.0, 2.0]]], [[[1.0]]],
         scales=[1.0, 1.0, 0.5]),
    case("prefer ceil", 'y = Resize<nearest_mode="round_prefer_ceil">(x, , scales)', 13,
         [[[1.0, 2.0]]], [[[2.0]]], scales=[1.0, 1.0, 0.5]),
    case("revision 10", "y = Resize(x, scales)", 10, [[[1.0, 2.0]]], [[[1.0, 1.0, 2.0, 2.0]]],
         scales=[1.0, 1.0, 2.0]),
    # 0.5 * (1*1 + 2*3) + 2 * 10, 0.5 * (1*2 + 2*4) + 2 * 20
    case("factors", "y = Gemm<alpha=0.5, beta=2.0>(x, w, b)", 13, [[1.0, 2.0]], [[23.5, 45.0]],
         w=[[1.0, 2.0], [3.0, 4.0]], b=[10.0, 20.0]),
    # x' = (1 2), times w' = rows (1 3) and (2 4): 1*1 + 2*2, 1*3 + 2*4
    case("transposed", "y = Gemm<transA=1, transB=1>(x, w)", 13, [[1.0], [2.0]], [[5.0, 11.0]],
         w=[[1.0, 2.0], [3.0, 4.0]]),
    case("upper bound only", "y = Clip(x, , high)", 13, [-1.0, 5.0], [-1.0, 2.0], high=2.0),
    case("bounds as attributes", "y = Clip<min=0.0>(x)", 10, [-1.0, 5.0], [0.0, 5.0]),
    case("slope per channel", "y = PRelu(x, slope)", 16, [[[-1.0], [-1.0], [4.0]]],
         [[[-0.5], [-2.0], [4.0]]], slope=[[0.5], [2.0], [9.0]]),
    # 0.5 * 3 * (e^-1 - 1), and 0.5 * 2
    case("other alpha", "y = Selu<alpha=3.0, gamma=0.5>(x)", 22, [-1.0, 2.0],
         [1.5 * (np.exp(-1) - 1), 1.0]),
    # 2 is written twice: 1 + 10 + 20
    case("updates add up", 'y = ScatterND<reduction="add">(x, at, up)', 16, [1.0, 1.0, 1.0],
         [1.0, 31.0, 1.0], at=[[1], [-2]], up=[10.0, 20.0]),
    case("the larger update", 'y = ScatterElements<reduction="max">(x, at, up)', 18,
         [5.0, 5.0], [9.0, 5.0], at=[0, -1], up=[9.0, 1.0]),
    # channels 0 1 2 3 with one place each: rows of the block, either way the same; two by two ...
    case("depth first", "y = DepthToSpace<blocksize=2>(x)", 13,
         np.arange(8.0).reshape(1, 8, 1, 1),
         [[[[0.0, 2.0], [4.0, 6.0]], [[1.0, 3.0], [5.0, 7.0]]]]),
    # ... or channel by channel
    case("channel first", 'y = DepthToSpace<blocksize=2, mode="CRD">(x)', 13,
         np.arange(8.0).reshape(1, 8, 1, 1),
         [[[[0.0, 1.0], [2.0, 3.0]], [[4.0, 5.0], [6.0, 7.0]]]]),
    case("a row per axis", "y = NonZero(x)", 13, [[0.0, 1.0, 2.0]], [[0, 0], [1, 2]]),
    case("negative index", "y = OneHot(x, depth, values)", 11, [0, -1, 7],
         [[9.0, 5.0, 5.0], [5.0, 5.0, 9.0], [5.0, 5.0, 5.0]], depth=3, values=[5.0, 9.0]),
    case("batch axes", "y = GatherND<batch_dims=1>(x, at)", 13, [[1.0, 2.0], [3.0, 4.0]],
         [2.0, 3.0], at=[[1], [0]]),
    case("triangle", "y = Trilu<upper=0>(x, k)", 14, [[1.0, 2.0], [3.0, 4.0]],
         [[0.0, 0.0], [3.0, 0.0]], k=-1),
    case("backwards", "y = Slice(x, start, end, axis, step)", 13, [1.0, 2.0, 3.0, 4.0],
         [4.0, 2.0], start=[-1], end=[-(2**31)], axis=[0], step=[-2]),
    # to the size asked for, or the tensor's own where it is larger
    case("both ways", "y = Expand(x, to)", 13, [[1.0], [2.0]], [[1.0, 1.0], [2.0, 2.0]], to=[1, 2]),
    case("zero point per channel", "y = DequantizeLinear<axis=0>(x, scale, zero)", 13,
         np.array([[3, 5], [3, 5]], np.uint8), [[1.0, 2.0], [0.0, 20.0]],
         scale=[0.5, 10.0], zero=np.array([1, 3], np.uint8)),
    # scores 0 and ln 3 weigh 1/4 and 3/4: 0.25 * 4 + 0.75 * 8
    case("attention", "y = Attention<scale=1.0>(x, k, v)", 23, [[[[1.0]]]], [[[[7.0]]]],
         k=[[[[0.0], [np.log(3)]]]], v=[[[[4.0], [8.0]]]]),
]  # fmt: skip


@pytest.mark.parametrize("runner", [in_torch, in_onnxruntime])
@pytest.mark.parametrize(("nodes", "opset", "images", "constants", "wanted"), CASES)
def test_the_result_is_what_was_worked_out(
    runner: Callable[..., NDArray[Any]],
    nodes: str,
    opset: int,
    images: Arrays,
    constants: Arrays,
    wanted: Any,
) -> None:
    """Torch gives it, and so does ONNX Runtime: a second opinion on what the operator means."""
    found = runner(nodes, opset, images, constants)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found.shape == np.shape(wanted)
