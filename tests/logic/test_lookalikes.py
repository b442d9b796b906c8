"""Honest graphs with the same operators are not reported, and nothing is run for them."""

from __future__ import annotations

import time

import onnx
import pytest

from fixtures.graphs import HEADS, build
from fixtures.lookalikes import GREY, LOOKALIKES
from fixtures.sketches import build_sketch
from onnx_soda._detect.graph_logic.detector import examine_logic
from onnx_soda._model.graph import view_graph
from onnx_soda._model.load import load_model
from tests.logic.helpers import CPU, examine


@pytest.mark.parametrize("name", LOOKALIKES)
def test_lookalike_is_not_reported(name: str) -> None:
    evidence = examine(build_sketch(LOOKALIKES[name]))
    assert evidence.findings == ()
    assert evidence.images_run == 0
    assert evidence.nodes_examined > 5


@pytest.mark.parametrize("name", GREY)
def test_networks_that_decide_raise_no_alarm(name: str) -> None:
    assert all(finding.severity != "high" for finding in examine(build_sketch(GREY[name])).findings)


@pytest.mark.parametrize("head", HEADS)
def test_heads_are_not_reported(head: str) -> None:
    assert examine(build(head)).findings == ()


def test_a_thousand_nodes_take_less_than_a_third_of_a_second() -> None:
    model = build_sketch(LOOKALIKES["softmax_tail"])
    last = model.graph.node[-1]
    value = last.input[0]
    for number in range(1000):
        node = onnx.helper.make_node("Sigmoid" if number % 2 else "Neg", [value], [f"n{number}"])
        model.graph.node.insert(len(model.graph.node) - 1, node)
        value = f"n{number}"
    last.input[0] = value
    view = view_graph(load_model(model.SerializeToString()))
    start = time.process_time()
    examine_logic(view, CPU)
    assert time.process_time() - start < 0.3
