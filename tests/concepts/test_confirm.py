"""How sure a pair's score is, with many pairs to choose from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from onnx_soda._detect.concepts.concept import Concept
from onnx_soda._detect.concepts.judge import Judge, simultaneous_errors
from onnx_soda._detect.concepts.score import FloatArray
from onnx_soda._detect.concepts.search import PairFinding
from onnx_soda._detect.concepts.styles import Change
from onnx_soda._detect.concepts.verify import also_turned, weigh


def test_the_bound_shares_one_chance_in_twenty_among_all_pairs() -> None:
    """Two classes make two pairs: 0.025 each, 1.96 errors. 10 make 90 pairs, 43 make 1,806."""
    assert simultaneous_errors(2) == pytest.approx(1.96, abs=0.001)
    assert norm.sf(simultaneous_errors(10)) * 90 == pytest.approx(0.05)
    assert simultaneous_errors(43) > simultaneous_errors(10) > 3


def test_other_classes_that_surely_turn_are_told_the_most_turned_first() -> None:
    """Five classes make 20 pairs: 2.8 errors. 100 images shown, and 100 that the reference knows.
    To 4 go 0.9 of class 0, 0.4 of 1, 0.08 of 2 and 0.7 of 3; the reference has 0.2 of 3; 0.1 of 1
    is usual. So 1 has 0.3, less 2.8 errors of sqrt((0.24 + 0.0097) / 100) = 0.05: it is told, after
    3 (0.5). 2 has 0.08, less 2.8 of sqrt((0.0736 + 0.0097) / 100) = 0.029: it may be chance.
    """
    model, reference = np.eye(5), np.eye(5)
    for label, (sent, known) in enumerate([(0.9, 0), (0.4, 0), (0.08, 0), (0.7, 0.2)]):
        model[label, [label, 4]] = 1 - sent, sent
        reference[label, [label, 4]] = 1 - known, known
    usual = np.zeros((2, 5, 5))
    usual[1, 1, 4] = 0.1
    judge = Judge(
        unchanged=np.zeros((2, 2, 5, 5)),
        images=np.full((2, 5), 100),
        fitted=np.full((2, 5), 100),
        likeness=np.eye(5),
        trust=np.ones(1),
        usual=usual,
    )
    assert also_turned(np.stack([model, reference]), judge, 1, (0, 4)) == (3, 1)
    # From the other of them class 0 is told, the most turned.
    assert also_turned(np.stack([model, reference]), judge, 1, (3, 4)) == (0, 1)


def brighter(gain: float) -> Concept:
    return Concept("gamma", {"gamma": (gain,)}, "everywhere", {})


class Told:
    """Images whose flows are told: of class 0 so much goes to 1 in the first and second fold."""

    def __init__(self, sent: dict[float, tuple[float, float]]) -> None:
        self.sent = sent

    def flows(self, change: Change | None) -> FloatArray:
        assert isinstance(change, Concept)
        shares = self.sent[change.values["gamma"][0]]
        return np.stack([np.stack([[[1 - p, p], [0, 1]], np.eye(2)]) for p in shares])


def test_the_images_that_a_concept_is_shown_on_do_not_choose_it() -> None:
    """By the first fold 1.0 is better (0.6 over 0.5), so it has it first; by the second it is 2.0
    (0.9 over 0.3). What the first chose is shown on the second, so 1.0 with its 0.3 is told."""
    right = np.stack([np.eye(2)] * 2)
    judge = Judge(
        unchanged=np.stack([right, right]),
        images=np.full((2, 2), 100),
        fitted=np.full((2, 2), 100),
        likeness=np.eye(2),
        trust=np.ones(1),
        usual=np.zeros((2, 2, 2)),
    )
    shown = Told({1.0: (0.6, 0.3), 2.0: (0.5, 0.9), 3.0: (0.1, 0.1)})
    chosen = ((brighter(1.0), brighter(2.0)), (brighter(3.0),))
    weighed = weigh((shown, shown), judge, PairFinding(0, 1, 0.0, chosen))
    assert (weighed.concept, weighed.chosen_by) == (brighter(1.0), 0)
    # The score is of all of them: the mean of 0.3 and 0.9 in one fold, 0.1 in the other.
    assert weighed.score == pytest.approx((0.6 + 0.1) / 2)
