"""Models with anything changed in them: whatever comes, only errors of our own, and soon."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.graphs import build
from fixtures.hostile import ATTACKS
from fixtures.hostile_parts import classifier
from fixtures.stolen_weights import cached_like_hugging_face
from onnx_soda._errors import SodaError
from onnx_soda._model.graph import view_graph
from onnx_soda._model.load import load_model

HEADS = ("gemm", "keras", "qdq", "conv_pool", "zipmap", "weight_dequantized")
# Those that are one small file and are refused late: what is changed may be just the reason.
SEEDS = ("functions-1e4", "allocation-computed", "allocation-intermediate", "allocation-range")
NUMBERS = st.sampled_from([-(2**63), -1, 0, 1, 7, 100, 2**20, 2**31, 2**40, 2**63 - 1])


def look(content: bytes) -> None:
    try:
        view_graph(load_model(content))
    except SodaError as error:
        assert error.message  # noqa: PT017 - whether it raises is not the question


@settings(max_examples=400, deadline=5000)
@given(st.sampled_from(HEADS), st.data())
def test_bytes_changed_anywhere(head: str, data: st.DataObject) -> None:
    content = bytearray(build(head).SerializeToString())
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(content) - 1))
        end = min(len(content), start + data.draw(st.integers(0, 4)))
        content[start:end] = data.draw(st.binary(max_size=6))
        if not content:
            break
    look(bytes(content))


@settings(max_examples=200, deadline=5000)
@given(st.sampled_from(HEADS), st.data())
def test_dimensions_and_arguments_changed(head: str, data: st.DataObject) -> None:
    model = build(head)
    tensors = [t for t in model.graph.initializer if t.dims]
    tensor = data.draw(st.sampled_from(tensors))
    tensor.dims[data.draw(st.integers(0, len(tensor.dims) - 1))] = data.draw(NUMBERS)
    for index, size in enumerate(model.graph.input[0].type.tensor_type.shape.dim):
        if data.draw(st.booleans()):
            size.dim_value = data.draw(NUMBERS)
            assert index < 5
    look(model.SerializeToString())


@settings(max_examples=150, deadline=5000)
@given(st.data())
def test_sizes_of_made_tensors(data: st.DataObject) -> None:
    """Numbers, or sums and products of numbers, in the place of a shape: refused or small."""
    numbers = data.draw(st.lists(NUMBERS, min_size=1, max_size=4))
    operator = data.draw(st.sampled_from(["ConstantOfShape", "Expand", "Tile", "Reshape"]))
    first = () if operator == "ConstantOfShape" else ("h",)
    make = onnx.helper.make_node
    nodes = [
        make(data.draw(st.sampled_from(["Add", "Mul", "Div", "Sub"])), ["s", "s"], ["t"]),
        make(operator, [*first, data.draw(st.sampled_from(["s", "t"]))], ["z"]),
    ]
    shape = onnx.helper.make_tensor("s", onnx.TensorProto.INT64, [len(numbers)], numbers)
    look(classifier(nodes, [shape]).SerializeToString())


@pytest.mark.parametrize("head", HEADS)
def test_signalling_nans_among_the_weights(head: str) -> None:
    """NumPy warns when it casts one; warnings are errors here."""
    model = build(head)
    floats = [one for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT]
    assert floats
    for tensor in floats:
        count = math.prod(tensor.dims)
        tensor.ClearField("float_data")
        tensor.raw_data = b"\x01\x00\x80\x7f" * count
    look(model.SerializeToString())


def test_attacks_with_bytes_changed(tmp_path: Path) -> None:
    contents = []
    for name in SEEDS:
        (tmp_path / name).mkdir()
        contents.append(ATTACKS[name](tmp_path / name).read_bytes())

    @settings(max_examples=150, deadline=5000)
    @given(st.sampled_from(contents), st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
    def change(content: bytes, place: int, new: bytes) -> None:
        at = place % len(content)
        look(content[:at] + new + content[at + len(new) :])

    change()


def test_locations_of_weights(tmp_path: Path) -> None:
    """Names of files made of the pieces that attacks are made of never lead outside."""
    path = cached_like_hugging_face(tmp_path)
    proto = onnx.load(path.resolve(), load_external_data=False)
    bias = next(t for t in proto.graph.initializer if t.name == "bias")
    pieces = st.sampled_from(["..", ".", "/", "\\", "a", "model.onnx_data", "\0", "C:", "~", "é"])

    @settings(max_examples=150, deadline=5000)
    @given(st.lists(pieces, max_size=8))
    def change(parts: list[str]) -> None:
        bias.external_data[0].value = "".join(parts)
        path.resolve().write_bytes(proto.SerializeToString())
        try:
            files = load_model(path).external_data
        except SodaError:
            return
        assert [one.path.parent.name for one in files] == ["blobs"]

    change()
