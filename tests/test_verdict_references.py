"""Which verdict follows where "auto" looked with references and then without."""

from __future__ import annotations

import pytest

from onnx_soda import Evidence, Finding
from onnx_soda._results import Verdict
from onnx_soda._verdict import detectors_of, joined, needs_more

FINDING = Finding("SODA103", "high", 1, 2, 0.5, 0.1, "one turns into two")


def evidence(
    name: str, verdict: Verdict, *findings: Finding, unclear: bool = False, heard: bool = True
) -> Evidence:
    numbers = {"references": [1]} if heard else {}
    return Evidence(
        name, name, verdict, (f"{name} says {verdict}",), findings, unclear, numbers=numbers
    )


def opinion(verdict: Verdict, *findings: Finding, unclear: bool = False) -> Evidence:
    return evidence("second-opinion", verdict, *findings, unclear=unclear)


def concepts(verdict: Verdict, *findings: Finding, unclear: bool = False) -> Evidence:
    return evidence("concepts", verdict, *findings, unclear=unclear)


def by_name(*several: Evidence) -> dict[str, Evidence]:
    return {one.detector: one for one in several}


def test_which_detector_decides() -> None:
    assert detectors_of("auto")[-1] == "concepts"
    assert detectors_of("auto", references=True)[-1] == "second-opinion"
    assert "concepts" not in detectors_of("auto", references=True)
    for method in ("concepts", "soda"):
        *beside, deciding = detectors_of(method, references=True)
        assert deciding == method
        assert "second-opinion" in beside


def test_what_references_find_needs_no_more() -> None:
    found, nothing = by_name(opinion("backdoor", FINDING)), by_name(opinion("clean"))
    assert not needs_more("auto", found)
    assert needs_more("auto", nothing)
    assert not needs_more("second-opinion", nothing)
    assert not needs_more("auto", by_name(concepts("clean")))


@pytest.mark.parametrize(
    ("heard", "alone", "verdict"),
    [
        (opinion("clean"), concepts("clean"), "clean"),
        # One that has seen enough is enough,
        (opinion("inconclusive"), concepts("clean"), "clean"),
        (opinion("clean"), concepts("inconclusive"), "clean"),
        (opinion("inconclusive"), concepts("inconclusive"), "inconclusive"),
        # unless something is unclear to either.
        (opinion("inconclusive", unclear=True), concepts("clean"), "inconclusive"),
        (opinion("clean"), concepts("inconclusive", unclear=True), "inconclusive"),
    ],
)
def test_where_nothing_was_found(heard: Evidence, alone: Evidence, verdict: Verdict) -> None:
    decided = joined(by_name(heard, alone))
    assert (decided.verdict, decided.findings) == (verdict, ())
    assert decided.reasons


def test_what_is_found_without_them_counts() -> None:
    alone = concepts("backdoor", FINDING)
    assert joined(by_name(opinion("clean"), alone)) is alone


def test_where_no_reference_could_be_used_they_say_nothing() -> None:
    unheard = evidence("second-opinion", "inconclusive", heard=False)
    alone = concepts("clean")
    assert joined(by_name(unheard, alone)) is alone
