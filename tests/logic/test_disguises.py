"""Wrapping a trojan in operators that change nothing does not hide it."""

from __future__ import annotations

import onnx
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.sketches import build_sketch
from fixtures.trojans import TROJANS
from tests.logic.helpers import examine

_FLAT = [name for name, sketch in TROJANS.items() if not sketch.functions]
_FLOAT, _BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL


def _disguise(model: onnx.ModelProto, at: int, how: str) -> None:
    """Put an operator, or a pair of them, behind the first output of a node."""
    node = model.graph.node[at]
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {value.name: value.type.tensor_type for value in inferred.graph.value_info}
    name = node.output[0]
    kind = known.get(name)
    if kind is None or name in {output.name for output in model.graph.output}:
        return
    inner, middle = f"{name}__in{len(model.graph.node)}", f"{name}__mid{len(model.graph.node)}"
    node.output[0] = inner
    make = onnx.helper.make_node
    rank = len(kind.shape.dim)
    if how == "cast" and kind.elem_type in (_FLOAT, _BOOL):
        wide = onnx.TensorProto.DOUBLE if kind.elem_type == _FLOAT else _FLOAT
        pair = [make("Cast", [inner], [middle], to=wide)]
        pair.append(make("Cast", [middle], [name], to=kind.elem_type))
    elif how == "transpose" and rank > 1:
        order = list(range(rank))[::-1]
        pair = [make("Transpose", [inner], [middle], perm=order)]
        pair.append(make("Transpose", [middle], [name], perm=order))
    else:
        pair = [make("Identity", [inner], [middle]), make("Identity", [middle], [name])]
    for offset, wrapped in enumerate(pair):
        model.graph.node.insert(at + 1 + offset, wrapped)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(_FLAT),
    st.lists(
        st.tuples(st.integers(0, 10**6), st.sampled_from(["cast", "transpose", "identity"])),
        min_size=1,
        max_size=8,
    ),
)
def test_disguises_do_not_hide(name: str, disguises: list[tuple[int, str]]) -> None:
    model = build_sketch(TROJANS[name])
    for place, how in disguises:
        _disguise(model, place % len(model.graph.node), how)
    onnx.checker.check_model(model, full_check=True)
    assert any(finding.severity == "high" for finding in examine(model).findings)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(_FLAT), st.integers(0, 2**32))
def test_names_do_not_matter(name: str, salt: int) -> None:
    model = build_sketch(TROJANS[name])
    for number, node in enumerate(model.graph.node):
        node.name = f"{salt}_{number}"
    assert any(finding.severity == "high" for finding in examine(model).findings)
