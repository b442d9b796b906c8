"""A backdoor written into the graph, as the command line reports it; and what looks like one."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.lookalikes import LOOKALIKES
from fixtures.sketches import TARGET, Sketch, build_sketch
from fixtures.trojans import TROJANS

from .helpers import checked, invoke, soda


def write(sketch: Sketch, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(build_sketch(sketch).SerializeToString())
    return path


@pytest.mark.parametrize("name", TROJANS)
def test_a_trojan_is_a_backdoor_without_any_images(name: str, tmp_path: Path) -> None:
    done = invoke("scan", write(TROJANS[name], tmp_path), "-f", "json", "--threads", 1)
    report = checked(done.stdout, done.exit_code)
    assert report["verdict"] == "backdoor"
    logic = [finding for finding in report["findings"] if finding["rule_id"] < "SODA3"]
    assert logic[0]["severity"] == "high"
    assert logic[0]["rule_id"].startswith("SODA2")
    # One puts other features in place; which class they lead to is the weights' affair.
    if name != "hidden_layer_replaced":
        assert {finding["target_class"] for finding in logic} <= {TARGET, None}
    assert logic[0]["location"]


@pytest.mark.parametrize("name", LOOKALIKES)
def test_a_lookalike_is_not(name: str, tmp_path: Path) -> None:
    done = invoke("scan", write(LOOKALIKES[name], tmp_path), "-f", "json", "--threads", 1)
    if done.exit_code == 2:  # some have no layer to analyse
        assert "error:" in done.stderr
        return
    report = checked(done.stdout, done.exit_code)
    assert report["verdict"] != "backdoor"
    assert not [f for f in report["findings"] if f["severity"] == "high"]


def test_the_text_names_rule_nodes_and_trigger(tmp_path: Path) -> None:
    done = soda("scan", write(TROJANS["colour_sum_where"], tmp_path), "--threads", 1)
    assert done.returncode == 1
    assert done.stdout.startswith(f"model.onnx: BACKDOOR\n  any class -> {TARGET}\n\n")
    joined = " ".join(done.stdout.split())
    assert "SODA202" in joined
    assert "Confirmed; a plain image of colour (1, 0, 0) takes the decision. [t, out]" in joined
    assert "No single layer can be analysed" in joined
    assert "`onnx-soda explain ID`" in joined
