"""Every trojan is found, by its nodes, and nearly all are shown to work."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from fixtures.gates import HIDDEN
from fixtures.sketches import TARGET, build_sketch
from fixtures.trojans import TROJANS
from onnx_soda._detect.graph_logic.detector import examine_logic
from onnx_soda._detect.graph_logic.images import Clean
from onnx_soda._model.graph import view_graph
from onnx_soda._model.load import load_model
from onnx_soda._rules import RULES
from tests.logic.helpers import CPU, examine, names_one_of

# The rule that says it best; others may be reported with it.
EXPECTED = {
    "plain_if": "SODA201",
    "nested_if": "SODA201",
    "arithmetic_mix": "SODA202",
    "argmax_gather": "SODA202",
    "steep_sigmoid": "SODA202",
    "larger_of_two": "SODA203",
    "late_rectifier": "SODA203",
    "high_power": "SODA203",
    "colour_sum_where": "SODA204",
    "hidden_layer_replaced": "SODA204",
    "scan_body": "SODA204",
    "loop_body": "SODA204",
    "pixel_pattern": "SODA205",
    "checksum": "SODA205",
}


@pytest.mark.parametrize("name", TROJANS)
def test_trojan_is_found(name: str) -> None:
    sketch = TROJANS[name]
    evidence = examine(build_sketch(sketch))
    grave = [finding for finding in evidence.findings if finding.severity == "high"]
    assert grave, "nothing found"
    # Nodes out of functions get new names; the reason names their operator.
    words = "Greater" if sketch.functions else ""
    assert any(
        names_one_of(finding.nodes, sketch.names) or (words and words in finding.reason)
        for finding in grave
    )
    assert all(finding.rule_id in RULES and finding.reason for finding in grave)
    if name in EXPECTED:
        assert EXPECTED[name] in {finding.rule_id for finding in grave}
    confirmed = [finding for finding in grave if finding.status == "confirmed"]
    assert bool(confirmed) == sketch.confirmable
    assert all(finding.trigger for finding in confirmed)


@pytest.mark.parametrize("name", sorted(set(HIDDEN) - {"floor_padded_with_biases"}))
def test_a_backdoor_in_a_skip_or_a_gate_is_found(name: str) -> None:
    """`docs/graph-logic.md` says why the one that is left out is not."""
    sketch = HIDDEN[name]
    grave = [one for one in examine(build_sketch(sketch)).findings if one.severity == "high"]
    assert any(one.status == "confirmed" and one.trigger for one in grave)


def test_an_image_that_takes_a_decision_is_in_the_range_of_the_clean_ones() -> None:
    """Images under 0.04 on average open this one; clean images from 0.5 up come nowhere near."""
    sketch = HIDDEN["hard_sigmoid_of_darkness"]
    view = view_graph(load_model(build_sketch(sketch).SerializeToString()))
    rng = np.random.default_rng(0)
    bright = tuple(rng.uniform(0.5, 1, (6, 3, 16, 16)).astype(np.float32))
    found = examine_logic(view, CPU, clean=lambda: Clean(bright, (0.5, 1))).findings
    assert {one.severity for one in found} == {"high"}
    assert {one.status for one in found} == {"suspected"}
    whole = tuple(rng.uniform(0, 1, (6, 3, 16, 16)).astype(np.float32))
    assert {
        one.status for one in examine_logic(view, CPU, clean=lambda: Clean(whole)).findings
    } == {"confirmed"}


def test_a_clean_image_near_the_trigger_does_not_hide_a_switch() -> None:
    """The first is nearly red enough (0.85 of 0.9), so from there the switch acts all the way."""
    view = view_graph(load_model(build_sketch(TROJANS["late_rectifier"]).SerializeToString()))
    images = np.random.default_rng(0).uniform(0.2, 0.8, (8, 3, 16, 16)).astype(np.float32)
    images[0, 0] = 0.85
    found = examine_logic(view, CPU, clean=lambda: Clean(tuple(images))).findings
    assert {(one.severity, one.status) for one in found} == {("high", "confirmed")}


def test_same_seed_gives_same_evidence() -> None:
    model = build_sketch(TROJANS["near_pattern"])
    assert examine(model) == examine(model)


def test_target_class_is_named() -> None:
    finding = examine(build_sketch(TROJANS["colour_sum_where"])).findings[0]
    assert finding.flipped == TARGET


def test_trigger_in_words_works() -> None:
    """The image that a finding describes really is taken for the target by the whole model."""
    model = build_sketch(TROJANS["colour_sum_where"])
    assert examine(model).findings[0].trigger == "a plain image of colour (1, 0, 0)"
    image = np.zeros((1, 3, 16, 16), np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ordinary = session.run(None, {"x": image})[0].argmax()
    image[:, 0] = 1
    assert session.run(None, {"x": image})[0].argmax() == TARGET != ordinary
