"""What is told of a model's answers can be counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnx_soda._answers import Behaviour, RepairSummary
from onnx_soda._repair.proof import behaviour, tips_over
from onnx_soda._report.repair_text import before_and_after

CLEAN, LABELS = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
INFECTED, TRUTH = np.array([1, 0, 1, 2]), np.array([0, 0, 0, 2])


def test_shares_of_clean_and_of_changed_images() -> None:
    """Three of four clean images are right, half of class 2's. Of the infected ones two go to the
    target 1 and two to their own class. Of five bystanders three go to 0 or 2, which turn.
    """
    told = behaviour(CLEAN, LABELS, INFECTED, TRUTH, 1, np.array([0, 2, 1, 3, 0]))
    assert told.accuracy == pytest.approx(0.75)
    assert told.accuracy_by_class == {"0": 1, "1": 1, "2": 0.5}
    assert (told.target_rate, told.victim_rate) == (0.5, 0.5)
    assert told.tipped_rate == pytest.approx(0.6)


def test_without_bystanders_nothing_is_told_of_them() -> None:
    none = np.empty(0, np.int64)
    assert behaviour(CLEAN, LABELS, INFECTED, TRUTH, 1, none).tipped_rate is None


def tipped(rate: float | None) -> Behaviour:
    return Behaviour(0.9, {"0": 0.9}, 0.0, 1.0, rate)


def test_a_repair_tips_over_where_over_one_in_twenty_more_turn() -> None:
    assert tips_over(tipped(0.01), tipped(0.07))
    assert not tips_over(tipped(0.08), tipped(0.12))
    assert not tips_over(tipped(None), tipped(None))


def test_what_happens_to_other_classes_stands_in_the_table() -> None:
    summary = RepairSummary("repaired", "", 0, 1, "head", "concepts")
    rows = before_and_after(replace(summary, before=tipped(0.01), after=tipped(0.07)))
    assert ("other classes so changed, to the victim", "1.0%", "7.0%") in rows
    without = before_and_after(replace(summary, before=tipped(None), after=tipped(None)))
    assert not any("other classes" in row[0] for row in without)
