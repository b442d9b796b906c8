"""Honest graphs with the same operators are not reported, and nothing is run for them."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from fixtures.gates import ACTIVATIONS, HONEST_GATES, honest_skips
from fixtures.graphs import HEADS, build
from fixtures.lookalikes import GREY, LOOKALIKES
from fixtures.sketches import build_sketch
from onnx_soda._detect.graph_logic.detector import examine_logic
from onnx_soda._model.graph import GraphView, view_graph
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


@pytest.mark.parametrize("name", HONEST_GATES)
def test_gates_of_honest_networks_are_medium_at_most(name: str) -> None:
    """A skipped block, an early exit, experts, "none of them", and what rounds or only looks so."""
    found = examine(build_sketch(HONEST_GATES[name])).findings
    assert all(finding.severity == "medium" for finding in found)
    assert all(finding.flipped is None for finding in found)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_skips_from_early_layers_are_not_reported(kind: str) -> None:
    """Feature pyramids, U-Nets, dense and wide-and-deep networks, levels put together."""
    for name, sketch in honest_skips(kind).items():
        assert examine(build_sketch(sketch)).findings == (), name


@pytest.mark.parametrize("name", ["old_dynamic_quantizer", "rounded_pixels", "posterised"])
def test_quantization_is_not_reported(name: str) -> None:
    assert examine(build_sketch(HONEST_GATES[name])).findings == ()


def test_what_is_true_of_many_places_is_said_once() -> None:
    """Twenty gates of one kind, one behind the other, are one finding that counts them."""
    model = build_sketch(HONEST_GATES["skipped_block"])
    at = next(i for i, node in enumerate(model.graph.node) if list(node.output) == ["r"])
    last = "r"
    for number in range(19):
        for op, reads, makes in (
            ("GlobalAveragePool", [last], "s"), ("Conv", [f"s_{number}", "wg"], "f"),
            ("Greater", [f"f_{number}", "nil"], "t"), ("Cast", [f"t_{number}"], "m"),
            ("Mul", ["r4", f"m_{number}"], "q"), ("Add", [last, f"q_{number}"], "r"),
        ):  # fmt: skip
            node = onnx.helper.make_node(op, reads, [f"{makes}_{number}"])
            if op == "Cast":
                node.attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.FLOAT))
            at += 1
            model.graph.node.insert(at, node)
        last = f"r_{number}"
    pool = next(node for node in model.graph.node if list(node.output) == ["g"])
    pool.input[0] = last
    found = examine(model).findings
    assert {finding.rule_id for finding in found} == {"SODA202"}
    assert len(found) < 8
    assert any("places" in finding.reason for finding in found)
    assert all(finding.severity == "medium" for finding in found)


@pytest.mark.parametrize(
    "name",
    ["fpn_relu", "fpn_relu_small", "unet_relu", "wide_and_deep", "old_dynamic_quantizer",
     "ensemble_of_two", "stn_gridsample", "pre_round_8bit", "reject_label"],
)  # fmt: skip
def test_files_from_the_field_are_not_reported(name: str) -> None:
    path = Path(__file__).parents[3] / "shared" / "field" / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    assert examine_logic(view_graph(load_model(path)), CPU).findings == ()


@pytest.mark.parametrize("head", HEADS)
def test_heads_are_not_reported(head: str) -> None:
    assert examine(build(head)).findings == ()


def chain(nodes: int) -> GraphView:
    model = build_sketch(LOOKALIKES["softmax_tail"])
    last = model.graph.node[-1]
    value = last.input[0]
    for number in range(nodes):
        node = onnx.helper.make_node("Sigmoid" if number % 2 else "Neg", [value], [f"n{number}"])
        model.graph.node.insert(len(model.graph.node) - 1, node)
        value = f"n{number}"
    last.input[0] = value
    return view_graph(load_model(model.SerializeToString()))


def calls_to_examine(view: GraphView) -> int:
    """Count the calls of functions; unlike seconds they do not depend on the machine."""
    calls = 0

    def count(_frame: object, event: str, _what: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        examine_logic(view, CPU)
    finally:
        sys.setprofile(None)
    return calls


def test_each_node_takes_a_few_hundred_calls_however_many_there_are() -> None:
    """304 calls for each of a thousand nodes, a twentieth of a second, when this was written."""
    few, many = (calls_to_examine(chain(nodes)) for nodes in (1000, 2000))
    assert few < 1000 * 500
    assert many < 2.1 * few


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Keep the garbage collector out: going through what other tests left takes it a second."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
def test_a_thousand_nodes_are_examined_faster_than_read() -> None:
    """Each of the two is timed in the same process; reading takes seven times as long."""
    start = time.process_time()
    view = chain(1000)
    read = time.process_time()
    examine_logic(view, CPU)
    assert time.process_time() - read < read - start
