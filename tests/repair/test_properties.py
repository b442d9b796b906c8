"""Properties over random attributes: torch agrees with NumPy or ONNX Runtime on all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from numpy.typing import NDArray

from fixtures.families import build_family
from onnx_soda._bridge.bridge import stored_tensors, with_values
from onnx_soda._bridge.operators.shapes import cut_out, pad
from onnx_soda._model.runtime import relative_difference
from tests.repair.helpers import in_onnxruntime, in_torch

# Each example builds two small sessions; no deadline, since machines differ.
few = settings(max_examples=25, deadline=None, derandomize=True)
many = settings(max_examples=100, deadline=None, derandomize=True)

SIZES = st.integers(-12, 12)
IMAGE = np.random.default_rng(0).normal(size=(2, 3, 7, 6)).astype(np.float32)


@many
@given(SIZES, SIZES, st.integers(-4, 4).filter(bool), st.sampled_from([0, 1, -1]))
def test_slices_are_those_of_numpy(start: int, end: int, step: int, axis: int) -> None:
    x = np.arange(35).reshape(7, 5)
    index = (slice(start, end, step),)
    wanted = x[index] if axis == 0 else x[:, index[0]]
    found = cut_out(torch.from_numpy(x), [start], [end], [axis], [step])
    np.testing.assert_array_equal(found.numpy(), wanted)


@many
@given(st.sampled_from(["constant", "edge", "reflect", "wrap"]), st.lists(st.integers(0, 4),
       min_size=4, max_size=4))  # fmt: skip
def test_padding_is_that_of_numpy(mode: str, sizes: list[int]) -> None:
    x = np.arange(30.0).reshape(6, 5)
    wanted = np.pad(x, [(sizes[0], sizes[2]), (sizes[1], sizes[3])], mode=mode)  # type: ignore[call-overload]
    found = pad(torch.from_numpy(x), torch.tensor(sizes), mode=mode, fixed=None, fill=0)
    np.testing.assert_array_equal(found.numpy(), wanted)


def _agree(nodes: str, opset: int, constants: dict[str, Any] | None = None) -> None:
    wanted = in_onnxruntime(nodes, opset, {"x": IMAGE}, constants)
    found = in_torch(nodes, opset, {"x": IMAGE}, constants)
    assert relative_difference([found], [wanted]) <= 1e-5


@st.composite
def windows(draw: st.DrawFn) -> tuple[str, list[int]]:
    """Draw the attributes of a window that fits a 7 x 6 image; return them, and its kernel."""
    two = st.lists(st.integers(1, 3), min_size=2, max_size=2)
    kernel, dilations = draw(two), draw(two)
    # ONNX Runtime refuses SAME where a step is longer than the window.
    strides = [draw(st.integers(1, size)) for size in kernel]
    if draw(st.booleans()):
        how = f'auto_pad="{draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))}"'
        dilations = [1, 1]  # what ONNX Runtime pads then, it computes as if there were none
    else:
        pads = [draw(st.integers(0, size - 1)) for size in kernel * 2]
        how = f"pads={pads}"
    reach = [(size - 1) * spread + 1 for size, spread in zip(kernel, dilations, strict=True)]
    assume(reach[0] <= 7 and reach[1] <= 6)
    return f"{how}, strides={strides}, dilations={dilations}", kernel


@few
@given(windows())
def test_max_pooling_is_that_of_onnx_runtime(drawn: tuple[str, list[int]]) -> None:
    attributes, kernel = drawn
    _agree(f"y = MaxPool<kernel_shape={kernel}, {attributes}>(x)", 22)


@few
@given(windows(), st.booleans())
def test_average_pooling_is_that_of_onnx_runtime(
    drawn: tuple[str, list[int]], counted: bool
) -> None:
    attributes, kernel = drawn
    more = f"{attributes}, count_include_pad={int(counted)}"
    _agree(f"y = AveragePool<kernel_shape={kernel}, {more}>(x)", 22)


@few
@given(windows(), st.sampled_from([1, 3]))
def test_convolution_is_that_of_onnx_runtime(drawn: tuple[str, list[int]], group: int) -> None:
    attributes, kernel = drawn
    weights = np.random.default_rng(1).normal(size=(6, 3 // group, *kernel)).astype(np.float32)
    _agree(f"y = Conv<{attributes}, group={group}>(x, w)", 22, {"w": weights})


@few
@given(
    st.sampled_from(["Max", "Mean", "Min", "Prod", "Sum", "SumSquare", "L1", "L2"]),
    st.sets(st.integers(0, 3), max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_reductions_are_those_of_onnx_runtime(
    kind: str, axes: set[int], keep: bool, as_input: bool
) -> None:
    chosen = [axis - 4 * (axis % 2) for axis in axes]  # the odd ones counted from the end
    if as_input:
        nodes = f"y = Reduce{kind}<keepdims={int(keep)}>(x, axes)"
        _agree(nodes, 20, {"axes": np.array(chosen, np.int64)})
    else:
        given_axes = f", axes={chosen}" if chosen else ""
        _agree(f"y = Reduce{kind}<keepdims={int(keep)}{given_axes}>(x)", 11)


@few
@given(
    st.sampled_from(["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]),
    st.sampled_from(["linear", "cubic"]),
    st.integers(1, 15),
    st.integers(1, 15),
)
def test_interpolation_is_that_of_onnx_runtime(
    places: str, mode: str, height: int, width: int
) -> None:
    nodes = f'y = Resize<mode="{mode}", coordinate_transformation_mode="{places}">(x, , , sizes)'
    _agree(nodes, 19, {"sizes": np.array([2, 3, height, width])})


@few
@given(
    st.sampled_from(["half_pixel", "asymmetric"]),
    st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    st.sampled_from(
        [0.25, 0.5, 1.0, 2.0, 4.0]
    ),  # exact in binary: no place lies on an edge by chance
    st.sampled_from([0.5, 3.0]),
)
def test_the_nearest_pixel_is_that_of_onnx_runtime(
    places: str, rounding: str, height: float, width: float
) -> None:
    nodes = (
        f'y = Resize<mode="nearest", coordinate_transformation_mode="{places}", '
        f'nearest_mode="{rounding}">(x, , scales)'
    )
    _agree(nodes, 19, {"scales": [1.0, 1.0, height, width]})


@many
@given(numpy_strategies.arrays(np.float32, (4, 3, 3, 3), elements=st.floats(width=32)))
def test_any_value_is_written_bit_by_bit(value: NDArray[np.float32]) -> None:
    """Infinities, negative zeros, denormal numbers and NaNs too; other weights stay as they are."""
    model = build_family("gemm head", 17)
    written = stored_tensors(with_values(model, {"w0": value}))
    assert written["w0"].raw_data == value.astype("<f4").tobytes()
    stored = stored_tensors(model)
    assert all(written[name] == stored[name] for name in stored if name != "w0")


ARRAYS = numpy_strategies.arrays(np.float32, (3, 2), elements=st.floats(-1e6, 1e6, width=32))


@many
@given(ARRAYS, ARRAYS, st.sampled_from([1e-6, 4.0, 1e6]))
def test_relative_differences(
    one: NDArray[np.float32], other: NDArray[np.float32], unit: float
) -> None:
    """Nothing for equal tensors, else something, whatever the unit; the worst of several."""
    assert relative_difference([one], [one]) == 0
    difference = relative_difference([one], [other])
    assert (difference == 0) == np.array_equal(one, other)
    scaled = relative_difference([one.astype(float) * unit], [other.astype(float) * unit])
    if other.any():
        np.testing.assert_allclose(scaled, difference, rtol=1e-6)
    assert relative_difference([other, one], [other, other]) == difference
