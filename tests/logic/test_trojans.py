"""Every trojan is found, by its nodes, and nearly all are shown to work."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest

from fixtures.sketches import TARGET, build_sketch
from fixtures.trojans import TROJANS
from onnx_soda._rules import RULES
from tests.logic.helpers import examine, names_one_of

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
