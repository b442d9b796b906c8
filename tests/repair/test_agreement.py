"""Operators that no family of networks has: torch agrees with ONNX Runtime on random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnx_soda._model.runtime import relative_difference
from tests.repair.helpers import in_onnxruntime, in_torch

RNG = np.random.default_rng(0)
SHARES = RNG.uniform(0.1, 0.9, (2, 3, 5, 4)).astype(np.float32)
# Beyond the image on every side, so that each padding mode shows.
GRID = RNG.uniform(-1.5, 1.5, (2, 3, 3, 2)).astype(np.float32)
OF_ONE = (
    "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Atanh", "Exp", "Log",
    "Ceil", "Floor", "Round", "Sign", "Neg", "Reciprocal", "IsNaN", "Not", "ReduceLogSumExp",
)  # fmt: skip
OTHERS = [
    ("s = Add(x, one)\ny = Acosh(s)", 22),
    ("c = Div(x, half)\nf = Floor(c)\ni = Div(f, half)\ny = IsInf(i)", 20),
    ("y = ArgMax<axis=2, keepdims=0>(x)", 13),
    ("y = ArgMin<axis=-1, select_last_index=1>(x)", 13),
    ("y = Mod<fmod=1>(x, half)", 13),
    ("a = Greater(x, half)\nb = LessOrEqual(x, one)\nc = And(a, b)\nd = Xor(c, a)\ny = Or(d, a)",
     16),
    ("y = CastLike(one, x)", 25),
    ("y = Size(x)", 25),
    ("y = Cast<to=7>(x)", 25),
    ("s = Size(x)\nz = Sub(s, s)\nt = Div(s, s)\ny = Range(z, s, t)", 11),
    ("r = ReduceMax<keepdims=0>(x, last)\nm = ReduceMax<keepdims=0>(r, last)\ny = EyeLike<k=1>(m)",
     22),
    ("y = Hardmax<axis=1>(x)", 11),
    ("y = Hardmax(x)", 13),
    ("y = Softmax<axis=2>(x)", 11),
    ("y = LogSoftmax<axis=1>(x)", 13),
    ("k = Trilu(x)\ny = Tile(k, twice)", 14),
]  # fmt: skip
CONSTANTS = {
    "one": 1.0, "half": 0.5, "last": np.array([-1]), "twice": np.array([1, 2, 1, 3]),
}  # fmt: skip


def _agree(nodes: str, opset: int, images: dict[str, Any], constants: dict[str, Any]) -> None:
    read = {name: value for name, value in constants.items() if name in nodes}
    wanted = in_onnxruntime(nodes, opset, images, read)
    found = in_torch(nodes, opset, images, read)
    assert found.dtype == wanted.dtype
    assert relative_difference([found], [wanted]) <= 1e-6


@pytest.mark.parametrize("operator", OF_ONE)
def test_functions_of_one_tensor(operator: str) -> None:
    nodes = f"y = {operator}(x)"
    if operator == "Not":
        nodes = "b = Greater(x, half)\ny = Not(b)"
    _agree(nodes, 22, {"x": SHARES}, CONSTANTS)


@pytest.mark.parametrize(("nodes", "opset"), OTHERS)
def test_other_operators(nodes: str, opset: int) -> None:
    _agree(nodes, opset, {"x": SHARES}, CONSTANTS)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(
    ("mode", "opset"), [("bilinear", 16), ("nearest", 16), ("linear", 22), ("cubic", 20)]
)
def test_samples_at_a_grid(mode: str, opset: int, padding: str, aligned: int) -> None:
    attributes = f'mode="{mode}", padding_mode="{padding}", align_corners={aligned}'
    _agree(f"y = GridSample<{attributes}>(x, grid)", opset, {"x": SHARES, "grid": GRID}, {})
