"""Verdicts: clean only where everything was examined, whatever is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from onnx_soda._detect.base import Decision
from onnx_soda._detect.soda.analysis import SodaResult
from onnx_soda._detect.soda.attribution import Measured
from onnx_soda._detect.soda.detector import decide
from onnx_soda._detect.soda.statistic import detect_victim, judge_pcc
from onnx_soda._rules import RULE_TARGET
from onnx_soda._suspect import Examined
from onnx_soda._words import class_label

CLASSES = 8
ALL = Examined(
    classes=CLASSES, source_classes=CLASSES, fewest_images=50, accuracy=0.9, min_accuracy=0.5
)
EVEN = (0.50, 0.51, 0.52, 0.53, 0.54, 0.55, 0.56, 0.57)
# Class 3 is far below the others.
ODD = (0.50, 0.51, 0.52, -0.9, 0.54, 0.55, 0.56, 0.57)

GAPS = {
    "no data": replace(ALL, source_classes=0, fewest_images=0, accuracy=None),
    "low accuracy": replace(ALL, accuracy=0.49),
    "missing classes": replace(ALL, source_classes=CLASSES - 1),
    "too few images": replace(ALL, fewest_images=9),
    "two classes": replace(ALL, classes=2, source_classes=2),
}
WORDS = {
    "no data": "No clean images were given",
    "low accuracy": "only 49.0% of the clean images",
    "missing classes": "1 classes have no clean images",
    "too few images": "only 9 clean images",
    "two classes": "With 2 classes",
}


def result(pcc: Sequence[float], target_logits: Sequence[float] | None = None) -> SodaResult:
    """Return an analysis with some PCC values, and with mean logits of class 3 per source class."""
    targets = judge_pcc(np.array(pcc))
    victims = ()
    if target_logits is not None:
        means = {source: np.full(len(pcc), -9.0) for source in range(len(pcc))}
        for source, logit in enumerate(target_logits):
            means[source][3] = logit
        victims = tuple(detect_victim(target, means) for target in targets.flagged)
    return SodaResult(Measured({0: np.zeros((5, len(pcc)))}, "batched"), 5, targets, victims)


def test_everything_examined_and_nothing_found_is_clean() -> None:
    decision = decide(result(EVEN), ALL)
    assert (decision.verdict, decision.findings) == ("clean", ())
    assert "No class stands out" in decision.reasons[0]


@pytest.mark.parametrize("gap", GAPS)
def test_one_gap_is_enough_to_be_inconclusive(gap: str) -> None:
    decision = decide(result(EVEN), GAPS[gap])
    assert (decision.verdict, decision.findings) == ("inconclusive", ())
    assert len(decision.reasons) == 1
    assert WORDS[gap] in decision.reasons[0]


def test_without_an_analysis_it_is_inconclusive() -> None:
    decision = decide(None, ALL)
    assert decision.verdict == "inconclusive"
    assert "No causal analysis ran" in decision.reasons[0]


def test_gaps_add_up_and_are_all_told() -> None:
    examined = replace(ALL, accuracy=0.1, source_classes=5, fewest_images=1)
    decision = decide(None, examined)
    assert decision.verdict == "inconclusive"
    assert len(decision.reasons) == 4


def test_clean_is_said_only_where_nothing_is_missing() -> None:
    for classes, sources, fewest, accuracy, analysed in product(
        (2, 3, CLASSES), (0, 1, 2, 3, CLASSES), (0, 9, 10), (None, 0.0, 0.49, 0.5), (0, 1)
    ):
        examined = Examined(classes, sources, fewest, accuracy, 0.5)
        decision = decide(result(EVEN) if analysed else None, examined)
        complete = (
            analysed
            and classes in (3, CLASSES)
            and sources >= classes
            and fewest >= 10
            and accuracy == 0.5
        )
        assert (decision.verdict == "clean") == complete
        assert decision.verdict in ("clean", "inconclusive")
        assert decision.reasons


# --- findings


def test_a_target_class_that_stands_out_is_a_backdoor() -> None:
    decision = decide(result(ODD, [-9, -9, 0, 0, -9, -9, -9, 5]), ALL)
    assert decision.verdict == "backdoor"
    (finding,) = decision.findings
    assert (finding.rule_id, finding.target_class, finding.victim_class) == (RULE_TARGET, 3, 7)
    assert finding.score > finding.threshold == 2
    assert decision.reasons[0] == finding.message


def test_a_victim_that_stands_out_makes_it_severe() -> None:
    strong = decide(result(ODD, [-9.0, -9.1, -9.2, 0, -9.3, -8.9, -8.8, 5]), ALL).findings[0]
    weak = decide(result(ODD, [-9.0, -5.0, -1.0, 0, 1.0, 2.0, 3.0, 4.0]), ALL).findings[0]
    unknown = decide(result(ODD), GAPS["no data"]).findings[0]
    assert (strong.severity, strong.victim_class) == ("high", 7)
    assert (weak.severity, weak.victim_class) == ("medium", 7)
    assert (unknown.severity, unknown.victim_class) == ("medium", None)
    assert "the likely victim" in strong.message
    assert "on weaker evidence" in weak.message


@pytest.mark.parametrize("gap", ["no data", "missing classes", "too few images"])
def test_a_finding_stands_in_spite_of_a_gap_and_the_gap_is_told(gap: str) -> None:
    decision = decide(result(ODD), GAPS[gap])
    assert decision.verdict == "backdoor"
    assert any(WORDS[gap] in reason for reason in decision.reasons)


def test_where_the_labels_do_not_fit_nothing_is_concluded_from_them() -> None:
    decision = decide(result(ODD, [0, 0, 0, 0, 0, 0, 0, 5]), GAPS["low accuracy"])
    assert decision.verdict == "inconclusive"
    assert [finding.victim_class for finding in decision.findings] == [None]


def test_class_names_are_given_where_they_say_more_than_the_number() -> None:
    assert class_label(1, None) == "1"
    assert class_label(1, ("0", "1")) == "1"
    assert class_label(1, ("cat", "dog")) == "1 (dog)"
    assert class_label(5, ("cat", "dog")) == "5"
    decision: Decision = decide(result(ODD), ALL, [f"number {i}" for i in range(CLASSES)])
    assert "Class 3 (number 3)" in decision.findings[0].message
