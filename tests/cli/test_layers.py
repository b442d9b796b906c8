"""`--layer` and `--neurons`: the paper's statistic on other layers, and with every place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnx_soda import _system

from .helpers import (
    CLEAN_MODEL,
    checked,
    complaint,
    invoke,
    soda,
    write_few_digits,
    write_grey_case,
)

# 32 channels of 16 x 16 places in the middle of the bundled network: too many to run them all.
PLACES = ("--layer", "middle", "--neurons", "places")
EACH = 10


def scanned(few: Path, *arguments: str) -> dict[str, Any]:
    """Return the report of a scan by the paper's statistic."""
    common = ("--threads", 1, "--preprocess", "unit", "--method", "soda", "--fail-on", "medium")
    done = soda("scan", CLEAN_MODEL, "--data", few, *common, *arguments, "--format", "json")
    return checked(done.stdout, done.returncode)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_few_digits(tmp_path_factory.mktemp("few") / "few.npz", per_class=EACH)


def test_many_places_are_estimated_and_the_report_tells_how_well(few: Path) -> None:
    pytest.importorskip("onnx2torch", reason="needs the extra [repair]")
    report = scanned(few, *PLACES)
    evidence = report["evidence"]["soda"]
    numbers = evidence["numbers"]
    assert evidence["title"] == "Causal analysis of the middle layer (SODA)"
    assert (
        report["model"]["penultimate"] == numbers["layer"] == "/features/features.9/Relu_output_0"
    )
    assert (numbers["role"], numbers["kind"]) == ("middle", "places")
    assert (numbers["neurons"], numbers["method"]) == (32 * 16 * 16, "first-order")
    estimate = numbers["estimate"]
    assert (estimate["neurons"], estimate["images"]) == (200, 10 * EACH)
    assert 0.9 < estimate["rank_correlation"] <= 1
    assert estimate["lowest_rank_correlation"] <= estimate["rank_correlation"]
    assert 0 < estimate["corrected"] <= 100
    (table,) = evidence["tables"]
    assert "on 8,192 neurons, places of /features/features.9/Relu_output_0" in table["text"]
    told = f"the rank correlation with the estimates is {estimate['rank_correlation']:.3f}"
    assert told in table["text"]


def test_few_places_are_run_one_by_one(few: Path) -> None:
    """48 channels of 4 x 4 places, 768 in all, over 100 images; a dense layer bends behind them."""
    report = scanned(few, "--layer", "deep", "--neurons", "places")
    numbers = report["evidence"]["soda"]["numbers"]
    assert (numbers["neurons"], numbers["method"]) == (768, "batched")
    assert numbers["estimate"] is None


def test_without_torch_many_places_are_not_analysed_and_channels_are_named(
    few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _system.find_spec
    monkeypatch.setattr(_system, "find_spec", lambda name: None if name == "torch" else real(name))
    done = invoke("scan", CLEAN_MODEL, "--data", few, "--method", "soda", *PLACES, "--preprocess",
                  "unit", "--format", "json")  # fmt: skip
    report = checked(done.stdout, done.exit_code)
    assert report["verdict"] == "inconclusive"
    assert report["reasons"][0] == (
        "The middle layer's causal attribution was not analysed: estimating causal attribution by "
        "slopes needs torch, which is not installed. In a checkout of onnx-soda: pip install "
        '".[repair]", or take --neurons channels, of which interventions are run.'
    )


def test_a_layer_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    model, data = write_grey_case(tmp_path)
    done = soda("scan", model, "--data", data, "--layer", "middle")
    assert done.returncode == 2
    assert "the model has no middle layer; it has: last" in complaint(done.stderr)


def test_what_inspect_lists_is_what_the_words_take(few: Path) -> None:
    listed = json.loads(soda("inspect", CLEAN_MODEL, "--format", "json").stdout)["layers"]
    shallow = next(layer for layer in listed if layer["role"] == "shallow")
    report = scanned(few, "--layer", "shallow")
    numbers = report["evidence"]["soda"]["numbers"]
    assert (numbers["layer"], numbers["neurons"]) == (shallow["name"], shallow["neurons"])
    assert (numbers["role"], numbers["kind"]) == ("shallow", "channels")
